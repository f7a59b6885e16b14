"""Which files an input stands for."""

import os
from pathlib import Path

import pytest

from mypt_dist.data.prepare import inputs as module
from mypt_dist.data.prepare import stdlib_files
from mypt_dist.data.prepare.inputs import find_files
from mypt_dist.errors import ConfigError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "b.txt",
        "a/z.md",
        "a/c.py",
        "a.jsonl",
        "B.TXT.GZ",
        "c.jsonl.zst",
        "notes.pdf",
        "d.gz",
        "a/.hidden/x.txt",
        ".x.txt",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs):
    return [str(file.path) for file in find_files(inputs)]


def test_a_folder_is_searched_to_any_depth_in_order_of_names(tree):
    assert names("in") == ["in/B.TXT.GZ", "in/a/c.py", "in/a/z.md", "in/a.jsonl", "in/b.txt", "in/c.jsonl.zst"]


def test_inputs_keep_their_order_and_are_told_apart(tree):
    found = list(find_files(["in/b.txt", Path("in/a")]))
    assert [(str(file.path), file.argument, file.size) for file in found] == [
        ("in/b.txt", 0, 4),
        ("in/a/c.py", 1, 4),
        ("in/a/z.md", 1, 4),
    ]


def test_globs_are_matched_and_sorted(tree):
    assert names("in/**/*.[mp]*") == ["in/a/c.py", "in/a/z.md"]
    assert names(f"{tree}/in/*.txt") == [f"{tree}/in/b.txt"]


def test_packing_and_shape_come_from_the_name(tree):
    described = {file.path.name: (file.packing, file.format.type) for file in find_files(["in"])}
    assert described["B.TXT.GZ"] == (".gz", "text")
    assert described["c.jsonl.zst"] == (".zst", "jsonl")
    assert described["a.jsonl"] == ("", "jsonl")
    assert described["c.py"] == ("", "text")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.txt", "no such file or folder: absent.txt"),
        ("in/notes.pdf", r"in/notes.pdf cannot be prepared: accepted are files of .txt .md .py .jsonl"),
        ("in/*.csv", r"'in/\*.csv' holds no text: looked for .txt .md .py .jsonl, each also with .gz .bz2 .xz .zst"),
        ("empty", "'empty' holds no text"),
    ],
)
def test_an_input_without_text_is_refused_by_name(tree, given, message):
    (tree / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        names("in/b.txt", given)


def test_no_input_at_all_is_refused():
    with pytest.raises(ConfigError, match="give files, folders or globs"):
        names()


def test_a_device_is_refused(tree):
    os.mkfifo("in/pipe.txt")
    with pytest.raises(ConfigError, match=r"in/pipe.txt cannot be prepared"):
        names("in/pipe.txt")


def test_a_dangling_link_is_listed_so_that_it_is_reported(tree):
    Path("in/a/gone.txt").symlink_to("nowhere")
    assert [(file.path.name, file.size) for file in find_files(["in/a"])][1] == ("gone.txt", 0)


def test_a_folder_that_cannot_be_read_is_refused(tree, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "scandir", refuse)
    with pytest.raises(ConfigError, match="the folder in cannot be read: Permission denied"):
        names("in")


def test_stdlib_is_this_pythons_own_source():
    files = stdlib_files()
    assert files == sorted(files, key=lambda path: path.parts)
    found = {path.name for path in files}
    assert {"this.py", "argparse.py", "_aix_support.py"} <= found
    assert not any({"test", "tests", "idle_test", "site-packages", "__pycache__"} & set(path.parts) for path in files)
    assert names("stdlib") == [str(path) for path in files]
    assert 5e6 < sum(path.stat().st_size for path in files) < 50e6


def test_a_folder_called_stdlib_comes_before_the_library(tree):
    (tree / "stdlib").mkdir()
    (tree / "stdlib/own.txt").write_text("x")
    assert names("stdlib") == ["stdlib/own.txt"]
