"""From a sources file to files of text."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Behaviour, FaultyServer, serving
from hostile_archives import HOSTILE, flipped, member, split_zip, tar, zipped

from mypt_dist.data import durable
from mypt_dist.data.formats import JsonLines, LineFile, TabSeparated, WholeFile
from mypt_dist.data.sources import Fetched, FetchOptions, TextInput, fetch, fetched_texts, fetching, read_sources
from mypt_dist.data.sources.pace import Pace
from mypt_dist.errors import ConfigError, DataError, LockError, MyptError

CORPUS = zipped([("README", b"read me"), ("c.de", b"eins\nzwei\n"), ("c.en", b"one\ntwo\n"), ("notes.md", b"# notes")])
PACE = Pace(attempts=2, wait_s=0.01)


def giving(data: bytes) -> Behaviour:
    return lambda request, number: request.part(data, '"v1"')


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving() as running:
        running.behaviours["/c.zip"] = giving(CORPUS)
        yield running


class Place:
    """A sources file and the folder that it is fetched into."""

    def __init__(self, folder: Path, server: FaultyServer, sources: dict[str, Any]) -> None:
        self.file, self.out = folder / "sources.json", folder / "out"
        self.host = server.host
        self.file.write_text(json.dumps({"sources": sources}))

    def fetch(self, show: fetching.ShowProgress = fetching.silent, **options: Any) -> Fetched:
        chosen = FetchOptions(allow_hosts=[self.host], pace=PACE, **options)
        return fetch(read_sources(str(self.file)), self.out, chosen, show)

    def texts(self, key: str = "c") -> list[TextInput]:
        return fetched_texts(read_sources(str(self.file)), self.out, key)

    def names(self) -> set[str]:
        return {str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path, server: FaultyServer) -> Place:
    lines = {"type": "lines", "lines_per_document": 2}
    source = {"urls": [["c.zip", server.url("/c.zip")]], "final_pattern": "*.de", "format": lines, "licence": "CC0"}
    return Place(tmp_path, server, {"c": source})


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_an_archive_becomes_text_with_a_format(place: Place) -> None:
    fetched = place.fetch()
    assert place.texts() == [TextInput(place.out / "c/extracted/files/c/c.de", "", LineFile(lines_per_document=2))]
    source = fetched.sources["c"]
    assert (source.texts, source.text_bytes, source.licence, source.weight) == (1, 10, "CC0", 1.0)
    assert Fetched.model_validate_json((place.out / "fetched.json").read_text()) == fetched
    files = json.loads((place.out / "c/extracted/manifest.json").read_text())["files"]
    assert [file["path"] for file in files] == ["c/README", "c/c.de", "c/c.en", "c/notes.md"]


def test_a_second_call_asks_nothing_and_unpacks_nothing(place: Place, server: FaultyServer) -> None:
    first = place.fetch()
    before = snapshot(place.out / "c")
    server.asked.clear()
    assert place.fetch() == first
    assert server.asked == {}
    assert snapshot(place.out / "c") == before


def test_downloads_that_were_unpacked_may_be_removed(place: Place, server: FaultyServer) -> None:
    place.fetch()
    (place.out / "c/download/c.zip").unlink()
    server.asked.clear()
    place.fetch()
    assert server.asked == {}


def test_what_was_unpacked_and_has_lost_a_byte_is_unpacked_again(place: Place) -> None:
    place.fetch()
    path = place.out / "c/extracted/files/c/c.de"
    path.write_bytes(b"eins\nzwei")
    place.fetch()
    assert path.read_bytes() == b"eins\nzwei\n"


def test_a_download_that_has_changed_on_the_disk_is_not_unpacked(place: Place) -> None:
    place.fetch(unpacks=False)
    path = place.out / "c/download/c.zip"
    path.write_bytes(flipped(path.read_bytes(), 40))
    with pytest.raises(DataError, match=r"c\.zip has changed since it was downloaded"):
        place.fetch()
    assert not (place.out / "c/extracted").exists()


@pytest.mark.parametrize("name", ["zip, parent", "zip, bomb of many", "zip, flipped bit"])
def test_a_refused_archive_leaves_what_was_there_before(place: Place, server: FaultyServer, name: str) -> None:
    place.fetch()
    before = place.names()
    bad = HOSTILE[name].files["bad.zip"]
    server.behaviours["/c.zip"] = giving(bad)
    (place.out / "c/download/c.zip").unlink()
    place.file.with_name("sources.lock.json").unlink()
    with pytest.raises(DataError, match="is refused"):
        place.fetch(limits=HOSTILE[name].limits)
    assert place.names() == before
    assert (place.out / "c/extracted/files/c/c.de").read_bytes() == b"eins\nzwei\n"


def test_what_a_killed_call_left_is_removed(place: Place) -> None:
    for leftover in (".extracting", ".replaced"):
        (place.out / "c" / leftover / "files").mkdir(parents=True)
        (place.out / "c" / leftover / "files/junk").write_bytes(b"half")
    place.fetch()
    assert {path.name for path in (place.out / "c").iterdir()} == {"download", "extracted"}


def test_steps_can_be_left_out(place: Place, server: FaultyServer) -> None:
    with pytest.raises(DataError, match=r"not downloaded yet:\n  c/c\.zip"):
        place.fetch(downloads=False)
    fetched = place.fetch(unpacks=False)
    assert fetched.sources["c"].texts is None
    assert not (place.out / "c/extracted").exists()
    server.asked.clear()
    assert place.fetch(downloads=False).sources["c"].texts == 1
    assert server.asked == {}


def test_a_lost_lock_file_is_written_anew_from_what_is_there(place: Place, server: FaultyServer) -> None:
    place.fetch()
    lock = place.file.with_name("sources.lock.json")
    before = lock.read_text()
    lock.unlink()
    server.asked.clear()
    place.fetch()
    assert lock.read_text() == before
    assert server.asked == {}


def test_a_new_hash_in_the_sources_file_brings_the_new_content(place: Place, server: FaultyServer) -> None:
    import hashlib

    place.fetch()
    other = zipped([("c.de", b"drei\n")])
    server.behaviours["/c.zip"] = giving(other)
    content = json.loads(place.file.read_text())
    download = {"file": "c.zip", "url": server.url("/c.zip"), "sha256": hashlib.sha256(other).hexdigest()}
    content["sources"]["c"]["urls"] = [download]
    place.file.write_text(json.dumps(content))
    place.fetch()
    assert (place.out / "c/extracted/files/c/c.de").read_bytes() == b"drei\n"
    assert not (place.out / "c/extracted/files/c/c.en").exists()


def test_the_parts_of_a_split_zip_are_one_archive(tmp_path: Path, server: FaultyServer) -> None:
    parts = split_zip([0, 1, 2], None).files
    for name, data in parts.items():
        server.behaviours[f"/{name}"] = giving(data)
    source = {
        "urls": [[name, server.url(f"/{name}")] for name in parts],
        "type": "split_zip",
        "combined_name": "all.zip",
        "final_pattern": "*.txt",
    }
    place = Place(tmp_path, server, {"c": source})
    place.fetch()
    assert [text.path.name for text in place.texts()] == [f"{i}.txt" for i in range(9)]
    assert place.texts()[0].path.parent.name == "all"


def test_one_source_that_fails_does_not_keep_others_back(tmp_path: Path, server: FaultyServer) -> None:
    server.behaviours["/bad.zip"] = giving(HOSTILE["zip, parent"].files["bad.zip"])
    server.behaviours["/none"] = lambda request, number: request.answer(b"", 404)
    files = {"bad": "bad.zip", "c": "c.zip", "none": "none"}
    place = Place(tmp_path, server, {key: {"urls": [[file, server.url(f"/{file}")]]} for key, file in files.items()})
    with pytest.raises(DataError) as refused:
        place.fetch()
    assert "leads out of its folder" in str(refused.value)
    assert "none/none: the server says 404" in str(refused.value)
    assert [text.path.name for text in place.texts()] == ["notes.md"]
    assert set(json.loads((place.out / "fetched.json").read_text())["sources"]) == {"c"}


def test_files_of_this_machine_are_read_in_place_and_archives_unpacked(tmp_path: Path, server: FaultyServer) -> None:
    local = tmp_path / "local"
    (local / "sub").mkdir(parents=True)
    (local / "a.txt.gz").write_bytes(gzip.compress(b"text"))
    (local / "sub/b.txt").write_bytes(b"text")
    (local / "sub/plain").write_bytes(b"text")
    (local / "more.tar").write_bytes(tar(member("x.jsonl", b"{}\n"), member("y.bin", b"?")))
    place = Place(tmp_path, server, {"c": {"paths": ["local/**/*"]}})
    place.fetch()
    unpacked = place.out / "c/extracted/files/more"
    assert place.texts() == [
        TextInput(local / "a.txt.gz", ".gz", WholeFile()),
        TextInput(local / "sub/b.txt", "", WholeFile()),
        TextInput(local / "sub/plain", "", WholeFile()),
        TextInput(unpacked / "a/innocent.txt", "", WholeFile()),
        TextInput(unpacked / "x.jsonl", "", JsonLines()),
    ]
    before = snapshot(place.out / "c")
    place.fetch()
    assert snapshot(place.out / "c") == before


def test_two_local_archives_of_one_name_are_refused(tmp_path: Path, server: FaultyServer) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.zip").write_bytes(CORPUS)
    with pytest.raises(ConfigError, match=r"two archives of one source are called 'same\.zip'"):
        Place(tmp_path, server, {"c": {"paths": "*/same.zip"}}).fetch()


def test_what_one_call_brings_stays_on_record_when_another_brings_more(tmp_path: Path, server: FaultyServer) -> None:
    urls = [["c.zip", server.url("/c.zip")]]
    place = Place(tmp_path, server, {"a": {"urls": urls}, "b": {"urls": urls}})
    assert set(place.fetch(only=["a"]).sources) == {"a"}
    assert set(place.fetch(only=["b"]).sources) == {"a", "b"}
    (place.out / "fetched.json").write_text("{")
    assert set(place.fetch(only=["b"]).sources) == {"b"}


@pytest.mark.parametrize("blocked", ["out", "out/c"])
def test_a_folder_that_cannot_be_written_is_told(place: Place, tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file in the way")
    with pytest.raises(MyptError, match="cannot be written"):
        place.fetch()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"final_pattern": "*.fr"}, r"nothing in .* is text: looked for \*\.fr"),
        ({"final_pattern": "*.tsv"}, "say which column is the text"),
        ({"final_pattern": "*.zip"}, "an archive within an archive"),
    ],
)
def test_a_source_without_text_is_told(tmp_path: Path, server: FaultyServer, more: dict[str, str], said: str) -> None:
    server.behaviours["/t.zip"] = giving(zipped([("a.tsv", b"1\tx\n"), ("b.zip", CORPUS)]))
    place = Place(tmp_path, server, {"c": {"urls": [["t.zip", server.url("/t.zip")]], **more}})
    with pytest.raises(DataError, match=said):
        place.fetch()


def test_patterns_find_files_in_every_folder(tmp_path: Path, server: FaultyServer) -> None:
    names = ["a.tsv", "x/b.tsv", "x/y/c.tsv", "z/y/d.tsv", "x/e.txt"]
    server.behaviours["/t.zip"] = giving(zipped([(name, b"1\tx\n") for name in names]))
    tsv = {"type": "tsv", "column": 2}
    urls = [["t.zip", server.url("/t.zip")]]
    place = Place(
        tmp_path,
        server,
        {
            "all": {"urls": urls, "format": tsv, "final_pattern": "*.tsv"},
            "some": {"urls": urls, "format": tsv, "final_pattern": ["x/**/*.tsv", "*.txt"]},
        },
    )
    place.fetch()
    found = {key: [text.path.name for text in place.texts(key)] for key in ("all", "some")}
    assert found == {"all": ["a.tsv", "b.tsv", "c.tsv", "d.tsv"], "some": ["b.tsv", "e.txt", "c.tsv"]}
    assert place.texts("all")[0].format == TabSeparated(column=2)


def test_a_missing_local_file_is_told_before_anything_is_made(tmp_path: Path, server: FaultyServer) -> None:
    place = Place(tmp_path, server, {"c": {"paths": ["nowhere/*.txt", "neither/*"]}})
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere/\*\.txt, .*neither/\*"):
        place.fetch()
    assert not place.out.exists()


def test_two_calls_into_one_folder_are_refused(place: Place) -> None:
    place.out.mkdir()
    with (
        durable.only_process(place.out, ".fetching.lock", "fetching into"),
        pytest.raises(LockError, match="another process"),
    ):
        place.fetch()


def test_a_call_that_is_stopped_keeps_what_it_has(
    place: Place, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C, while the main thread waits for the others."""
    begun = threading.Event()

    def slowly(request: Any, number: int) -> None:
        request.head(200, Content_Length=1 << 30, ETag='"v1"')
        request.drip((b"x" * 100_000 for _ in range(1000)), 0.01)

    def interrupted(_futures: object) -> Any:
        assert begun.wait(60)
        raise KeyboardInterrupt

    server.behaviours["/c.zip"] = slowly
    monkeypatch.setattr(fetching, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place.fetch(show=lambda what: nullcontext(lambda done, total: begun.set()))
    folder = place.out / "c/download"
    state = json.loads((folder / "c.zip.part.json").read_text())
    assert 0 < state["bytes"] == (folder / "c.zip.part").stat().st_size
