"""What may stand in a sources file."""

import json
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.config.presets import names
from mypt_dist.data.formats import JsonLines, LineFile, Parquet, TabSeparated, WholeFile, format_of
from mypt_dist.data.sources import read_sources
from mypt_dist.data.sources.config import Download
from mypt_dist.errors import ConfigError

URL = "https://example.org/a.zip"
PREDECESSOR = {
    "name": "German and English dialogue",
    "description": "subtitles and sentences",
    "version": "1.0",
    "default_weights": {"subs": 0.7, "wiki": 0.3},
    "sources": {
        "subs": {
            "name": "Subtitles",
            "subdir": "OpenSubtitles",
            "urls": [["part.z01", "https://example.org/part.z01"], ["part.zip", "https://example.org/part.zip"]],
            "final_pattern": "*.de",
            "type": "split_zip",
            "combined_name": "all.zip",
            "est_size_mb": 1200,
            "description": "lines of films",
        },
        "wiki": {
            "name": "Wiki",
            "subdir": "wiki",
            "urls": [["wiki.txt.gz", "https://example.org/wiki.txt.gz"]],
            "final_pattern": "wiki.txt",
            "type": "gzip",
        },
    },
}


def written(folder: Path, content: Any) -> str:
    path = folder / "sources.json"
    path.write_text(json.dumps(content))
    return str(path)


def one(**source: Any) -> dict[str, Any]:
    return {"sources": {"a": {"urls": [["a.zip", URL]], **source}}}


def test_a_file_of_the_predecessor_is_read_as_it_is(tmp_path: Path) -> None:
    file = read_sources(written(tmp_path, PREDECESSOR)).file
    assert file.weights() == {"subs": 0.7, "wiki": 0.3}
    assert file.folder_name("subs") == "OpenSubtitles"
    subs, wiki = file.sources["subs"], file.sources["wiki"]
    assert subs.urls[0] == Download(file="part.z01", url="https://example.org/part.z01")
    assert (subs.type, subs.combined_name, subs.final_pattern, subs.est_size_mb) == (
        "split_zip",
        "all.zip",
        ("*.de",),
        1200,
    )
    assert wiki.kind_of("anything") == "gzip"


@pytest.mark.parametrize("name", names("configs/sources"))
def test_shipped_files_have_a_licence_and_a_format_for_every_source(name: str) -> None:
    sources = read_sources(name)
    for key, source in sources.file.sources.items():
        assert source.licence, key
        assert source.format is not None, key
        assert all(download.url.startswith("https://") for download in source.urls)
    assert set(sources.file.default_weights) == set(sources.file.sources)


WRONG: dict[str, tuple[Any, str]] = {
    "no source": ({"sources": {}}, "sources: dictionary should have at least 1 item"),
    "neither": ({"sources": {"a": {}}}, "sources.a: needs either urls (what to download) or paths"),
    "both": (one(paths=["x"]), "sources.a: needs either urls"),
    "a misspelled key": (one(licenc="x"), "sources.a.licenc: unknown key, did you mean 'licence'?"),
    "an unknown type": (one(type="rar"), "sources.a.type: input should be 'plain'"),
    "a key that is no name": ({"sources": {"../a": {"urls": [["a", URL]]}}}, "sources.../a"),
    "a folder that is no name": (one(subdir="a/b"), "sources.a.subdir"),
    "a file that leads out": (one(urls=[["../a.zip", URL]]), "sources.a.urls.0.file"),
    "a file that hides": (one(urls=[[".a.zip", URL]]), "sources.a.urls.0.file"),
    "two of one name": (one(urls=[["a.zip", URL], ["A.ZIP", URL]]), "two of its downloads are called 'a.zip'"),
    "no URL": (one(urls=[["a.zip", "example.org/a"]]), "sources.a.urls.0.url: 'example.org/a' is not the address"),
    "a file URL": (one(urls=[["a.zip", "file:///etc/passwd"]]), "is not the address of a file on the web"),
    "an FTP URL": (one(urls=[["a.zip", "ftp://example.org/a"]]), "is not the address of a file on the web"),
    "a data URL": (one(urls=[["a.zip", "data:text/plain,x"]]), "is not the address of a file on the web"),
    "a password": (one(urls=[["a.zip", "https://me:secret@example.org/a"]]), "with a user or password"),
    "line ends in a URL": (one(urls=[["a.zip", "https://example.org/\r\nHost: x"]]), "ASCII alone"),
    "umlauts in a URL": (one(urls=[["a.zip", "https://example.org/ü"]]), "ASCII alone"),
    "a port out of range": (one(urls=[["a.zip", "https://example.org:99999/"]]), "is no URL: Port out of range"),
    "a wrong hash": (one(urls=[{"file": "a", "url": URL, "sha256": "12"}]), "sources.a.urls.0.sha256"),
    "a pattern that leads out": (one(final_pattern="../*"), "must be a pattern such as '*.txt'"),
    "an absolute pattern": (one(final_pattern="/etc/*"), "must be a pattern such as '*.txt'"),
    "a negative weight": (one(weight=-1), "sources.a.weight: input should be greater than or equal to 0"),
    "two weights": ({**one(weight=1), "default_weights": {"a": 1}}, "the weight of a stands twice"),
    "a weight of nothing": ({**one(), "default_weights": {"b": 1}}, "default_weights.b: there is no such source"),
    "one folder for two": (
        {"sources": {"a": {"urls": [["a", URL]], "subdir": "B"}, "b": {"urls": [["a", URL]]}}},
        "two sources would share the folder 'b'",
    ),
    "a column 0": (one(format={"type": "tsv", "column": 0}), "sources.a.format.column: input should be greater"),
    "an unknown format": (one(format={"type": "pdf"}), "there is no type 'pdf'"),
    "a host with a path": ({**one(), "plain_hosts": ["http://x/"]}, "is not a host: HOST or HOST:PORT"),
    "split and local": ({"sources": {"a": {"paths": "x", "type": "split_zip"}}}, "parts of a split_zip are downloads"),
    "a list": ([], "must hold a JSON object, got list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, name: str) -> None:
    content, said = WRONG[name]
    with pytest.raises(ConfigError) as refused:
        read_sources(written(tmp_path, content))
    assert said in str(refused.value)
    assert "sources.json" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_sources_are_chosen_by_key_and_weight(tmp_path: Path) -> None:
    content = {
        "sources": {key: {"urls": [["a", URL]], "weight": weight} for key, weight in zip("abc", (1, 0, 3), strict=True)}
    }
    sources = read_sources(written(tmp_path, content))
    assert sources.chosen() == {"a": 1, "c": 3}
    assert sources.chosen(["b", "c"], {"c": 0.5}) == {"b": 0, "c": 0.5}
    assert sources.chosen(weights={"a": 0, "b": 2}) == {"b": 2, "c": 3}
    with pytest.raises(ConfigError, match=r"no source 'd' \(known: a, b, c\)"):
        sources.chosen(["d"])
    with pytest.raises(ConfigError, match="has no source 'aa', did you mean 'a'"):
        sources.chosen(weights={"aa": 1})
    with pytest.raises(ConfigError, match=r"every source of .* has weight 0"):
        sources.chosen(weights={"a": 0, "c": 0})


def test_endings_say_what_a_document_is() -> None:
    assert format_of("a.md") == format_of("b.PY") == WholeFile()
    assert format_of("a.jsonl") == JsonLines(field="text")
    assert format_of("a.parquet") == Parquet(column="text")
    assert format_of("a.tsv") is None
    assert format_of("a.bin") is None
    assert LineFile().lines_per_document == 1
    assert TabSeparated(column=3).header is False
