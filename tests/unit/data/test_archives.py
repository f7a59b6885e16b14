"""What comes out of archives, and what does not."""

import gzip
import io
import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_archives import HOSTILE, INNOCENT, MODES, member, pax, record, tar, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data.archives import Archive, ExtractedFile, ExtractionLimits, extract, kind_of, without_suffix
from mypt_dist.errors import DataError


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack(folder: Path, name: str, data: bytes) -> dict[str, bytes]:
    (folder / name).write_bytes(data)
    (folder / "out").mkdir()
    extract([Archive((folder / name,), kind_of(name), name)], folder / "out", ExtractionLimits())
    return tree(folder / "out")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_writes_nothing_outside_and_not_more_than_allowed(memory: Path, name: str) -> None:
    hostile = HOSTILE[name]
    place, inside = memory / "in", memory / "around/out"
    place.mkdir()
    inside.mkdir(parents=True)
    archive = hostile.archive(place)
    before = set(memory.rglob("*"))
    if hostile.said is None:
        extract([archive], inside, hostile.limits)
    else:
        with pytest.raises(DataError) as refused:
            extract([archive], inside, hostile.limits)
        assert hostile.said in str(refused.value)
        assert str(archive.paths[0]) in str(refused.value)
        assert str(refused.value).isprintable()
    made = set(memory.rglob("*")) - before
    assert all(path.is_relative_to(inside) for path in made)
    assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in made)
    assert all(path.stat().st_mode & 0o7022 == 0 for path in made), "nobody else may write, and nothing is setuid"
    assert sum(path.stat().st_size for path in made if path.is_file()) <= hostile.limits.max_bytes
    assert len(made) <= hostile.limits.max_entries


def test_there_are_enough_hostile_archives() -> None:
    assert sum(hostile.said is not None for hostile in HOSTILE.values()) >= 100


def test_the_trick_of_the_long_links_would_work_on_a_careless_reader(tmp_path: Path) -> None:
    """Its twin: what tarfile makes of one of them when nothing is checked."""
    (tmp_path / "out").mkdir()
    data = HOSTILE["tar, file through a link"].files["bad.tar"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "out", filter="fully_trusted")
    assert (tmp_path / "canary").exists()


def test_members_of_tar_and_zip_go_into_a_folder_of_the_archives_name(tmp_path: Path) -> None:
    expected = {"corpus/a/innocent.txt": INNOCENT[1], "corpus/b.md": b"b"}
    members = [INNOCENT, ("b.md", b"b")]
    for number, (name, data) in enumerate(
        {
            "corpus.zip": zipped(members),
            "corpus.tar": tar(member("b.md", b"b")),
            **{f"corpus.tar.{kind}": pack(tar(member("b.md", b"b"))) for kind, pack in MODES.items()},
        }.items()
    ):
        (tmp_path / str(number)).mkdir()
        assert unpack(tmp_path / str(number), name, data) == expected


@pytest.mark.parametrize("kind", MODES)
def test_a_packed_file_loses_its_suffix(tmp_path: Path, kind: str) -> None:
    assert unpack(tmp_path, f"news.de.{kind}", MODES[kind](b"text\n")) == {"news.de": b"text\n"}


def test_what_came_out_is_listed_with_hashes(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "b.zip").write_bytes(zipped([("c/d.txt", b"more")]))
    (tmp_path / "out").mkdir()
    archives = [Archive((tmp_path / name,), kind_of(name), name) for name in ("a.gz", "b.zip")]
    read: list[int] = []
    files = extract(archives, tmp_path / "out", ExtractionLimits(), read.append)
    assert files == [
        ExtractedFile("a", 4, hashlib.sha256(b"text").hexdigest()),
        ExtractedFile("b/c/d.txt", 4, hashlib.sha256(b"more").hexdigest()),
    ]
    assert sum(read) >= (tmp_path / "a.gz").stat().st_size


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives_of_every_format_are_read(tmp_path: Path, format_: int) -> None:
    source = tmp_path / "src"
    long = source / ("folder " + "x" * 60) / ("Grüße " + "y" * 80 + ".txt")
    long.parent.mkdir(parents=True)
    long.write_bytes(b"long " * 1000)
    (source / "empty.txt").write_bytes(b"")
    (source / "emptyfolder").mkdir()
    with tarfile.open(tmp_path / "c.tar", "w", format=format_) as archive:
        archive.add(source, ".")
    assert unpack(tmp_path, "c.tar", (tmp_path / "c.tar").read_bytes()) == {
        f"c/{long.relative_to(source)}": b"long " * 1000,
        "c/empty.txt": b"",
    }
    assert (tmp_path / "out/c/emptyfolder").is_dir()


def test_what_extended_headers_say_in_vain_is_read_over(tmp_path: Path) -> None:
    comment = pax(record("comment", b"0123abc"), tarfile.XGLTYPE)
    times = pax(record("mtime", b"1.5") + record("path", "grün.txt".encode()) + record("size", b"3"))
    assert unpack(tmp_path, "c.tar", comment + times + member("x", b"abc") + bytes(1024)) == {"c/grün.txt": b"abc"}


def test_a_zip_of_zip64_and_with_a_comment_is_read(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.comment = b"made by hand"
        with archive.open("big.txt", "w", force_zip64=True) as file:
            file.write(b"z" * 300_000)
        archive.writestr("grün.txt", b"g")
        archive.mkdir("folder")
    assert unpack(tmp_path, "c.zip", data.getvalue()) == {"c/big.txt": b"z" * 300_000, "c/grün.txt": b"g"}


def test_a_zip_of_nothing_holds_nothing(tmp_path: Path) -> None:
    assert unpack(tmp_path, "c.zip", zipped([])) == {}


def test_a_link_that_somebody_puts_in_the_way_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a folder that was just made."""
    for folder in ("elsewhere", "out"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(os, "mkdir", lambda name, mode, dir_fd: os.symlink(tmp_path / "elsewhere", name, dir_fd=dir_fd))
    (tmp_path / "c.zip").write_bytes(zipped([("innocent.txt", b"x")]))
    with pytest.raises(DataError):
        extract([Archive((tmp_path / "c.zip",), "zip", "c.zip")], tmp_path / "out", ExtractionLimits())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_of_a_member_that_lies_no_byte_more_than_it_says_is_written(tmp_path: Path) -> None:
    archive = HOSTILE["zip, more than it says"].archive(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="more bytes than the 10"):
        extract([archive], tmp_path / "out", ExtractionLimits())
    assert (tmp_path / "out/bad/b.txt").stat().st_size <= 10


@pytest.mark.parametrize("name", ["c.zip", "c.tar.gz"])
def test_an_archive_that_is_gone_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"cannot be unpacked: .*No such file"):
        extract([Archive((tmp_path / name,), kind_of(name), name)], tmp_path / "out", ExtractionLimits())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        unpack(tmp_path, "c.zip", zipped([INNOCENT]))


@given(st.sampled_from(["bad.tar", "bad.zip"]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6))
@settings(deadline=None, max_examples=150)
def test_whatever_bytes_are_changed_it_is_a_refusal_or_files_inside(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[float, int]]
) -> None:
    members = [("a/x.txt", b"x" * 600), ("b.txt", b"b")]
    data = bytearray(tar(*(member(*m) for m in members)) if name == "bad.tar" else zipped(members))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    folder = tmp_path_factory.mktemp("changed")
    with suppress(DataError):
        unpack(folder, name, bytes(data))
    assert {path.name for path in folder.iterdir()} == {name, "out"}


def test_names_say_what_an_archive_is() -> None:
    names = ["a.ZIP", "b.tar.gz", "c.tgz", "d.txt.gz", "e.tar.zst", "f.txt", ".gz", "g.jsonl.bz2"]
    kinds = ["zip", "tar.gz", "tar.gz", "gzip", "tar.zst", "plain", "plain", "bz2"]
    assert [kind_of(name) for name in names] == kinds
    assert [without_suffix(name) for name in names] == ["a", "b", "c", "d.txt", "e", "f.txt", ".gz", "g.jsonl"]
