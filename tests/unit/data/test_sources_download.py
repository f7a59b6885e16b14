"""Servers that fail in every way: what arrives is whole and right, or not there."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from download_faults import FAULTS, PACE, SHA, announces_more, cut_once
from faulty_server import CONTENT, ETAG, HALF, OTHER, FaultyServer, serving

from mypt_dist.data.sources import FetchOptions, fetch, read_sources
from mypt_dist.data.sources.pace import Pace
from mypt_dist.data.sources.web import READ_BYTES
from mypt_dist.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with serving() as running:
        yield running


def sources_file(folder: Path, urls: list[Any], **more: Any) -> Path:
    path = folder / "sources.json"
    path.write_text(json.dumps({"sources": {"main": {"urls": urls, **more}}}))
    return path


def options(server: FaultyServer, pace: Pace = PACE, **more: Any) -> FetchOptions:
    return FetchOptions(allow_hosts=[server.host], pace=pace, unpacks=False, max_bytes=1_000_000, **more)


@pytest.mark.parametrize("name", FAULTS)
def test_a_download_is_whole_or_not_there(server: FaultyServer, memory: Path, name: str) -> None:
    fault = FAULTS[name]
    server.asked.clear()
    server.behaviours.update({"/file": fault.does, "/fine": FAULTS["none"].does})
    download = {"file": fault.file, "url": server.url("/file")} | ({"sha256": fault.pinned} if fault.pinned else {})
    sources, out = read_sources(str(sources_file(memory, [download]))), memory / "out"
    target, lock = out / "main/download" / fault.file, memory / "sources.lock.json"
    told: list[int] = []

    def call() -> None:
        show = nullcontext(lambda done, _total: told.append(done))
        fetch(sources, out, options(server, fault.pace), lambda _what: show)

    if fault.said is None:
        call()
        assert target.read_bytes() == fault.content
        pin = json.loads(lock.read_text())["files"][f"main/{fault.file}"]
        assert (pin["sha256"], pin["bytes"]) == (hashlib.sha256(fault.content).hexdigest(), len(fault.content))
        assert [path.name for path in target.parent.iterdir()] == [target.name]
    else:
        with pytest.raises(DataError) as refused:
            call()
        assert fault.said in str(refused.value)
        assert f"main/{fault.file}" in str(refused.value)
        assert all(line.isprintable() for line in str(refused.value).splitlines())
        assert not target.exists()
        assert not lock.exists()
        names = {path.name for path in target.parent.iterdir()}
        assert names == ({f"{target.name}.part", f"{target.name}.part.json"} if fault.is_kept else set())
    assert max(told, default=0) <= 1_000_000 + READ_BYTES
    if fault.requests is not None:
        assert len(server.asked["/file"]) == fault.requests


def test_without_the_check_of_its_hash_another_content_would_arrive(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mypt_dist.data.sources import download

    monkeypatch.setattr(download._Job, "_is_accepted", lambda *_: True)
    server.behaviours["/pinned"] = FAULTS["other content than pinned"].does
    urls = [{"file": "a.txt", "url": server.url("/pinned"), "sha256": SHA}]
    fetch(read_sources(str(sources_file(tmp_path, urls))), tmp_path / "out", options(server))
    assert (tmp_path / "out/main/download/a.txt").read_bytes() == OTHER


def test_what_was_cut_is_gone_on_with_by_the_next_call(server: FaultyServer, tmp_path: Path) -> None:
    path = sources_file(tmp_path, [["a.txt", server.url("/later")]])
    server.behaviours["/later"] = announces_more
    with pytest.raises(DataError, match="goes on where it ended"):
        fetch(read_sources(str(path)), tmp_path / "out", options(server))
    server.behaviours["/later"] = lambda request, number: request.part(CONTENT + b"x" * 500, ETAG)
    server.asked.clear()
    fetch(read_sources(str(path)), tmp_path / "out", options(server))
    assert (tmp_path / "out/main/download/a.txt").read_bytes() == CONTENT + b"x" * 500
    assert server.asked["/later"][0]["Range"] == f"bytes={len(CONTENT)}-"
    assert server.asked["/later"][0]["If-Range"] == ETAG


@pytest.mark.parametrize("state", ["{", '{"url": "https://x/", "validator": "", "total": 1, "bytes": 1}', None])
def test_a_part_whose_state_says_nothing_is_not_trusted(
    server: FaultyServer, tmp_path: Path, state: str | None
) -> None:
    folder = tmp_path / "out/main/download"
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(b"rubbish" * 1000)
    if state is not None:
        (folder / "a.txt.part.json").write_text(state)
    server.behaviours["/fresh"] = lambda request, number: request.part(CONTENT, ETAG)
    path = sources_file(tmp_path, [["a.txt", server.url("/fresh")]])
    fetch(read_sources(str(path)), tmp_path / "out", options(server))
    assert (folder / "a.txt").read_bytes() == CONTENT


def test_after_a_power_cut_only_what_was_waited_for_counts(server: FaultyServer, tmp_path: Path) -> None:
    folder, url = tmp_path / "out/main/download", server.url("/power")
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(CONTENT[:HALF] + bytes(5000))
    state = {"url": url, "validator": ETAG, "total": len(CONTENT), "bytes": HALF}
    (folder / "a.txt.part.json").write_text(json.dumps(state))
    server.behaviours["/power"] = lambda request, number: request.part(CONTENT, ETAG)
    server.asked.clear()
    fetch(read_sources(str(sources_file(tmp_path, [["a.txt", url]]))), tmp_path / "out", options(server))
    assert (folder / "a.txt").read_bytes() == CONTENT
    assert server.asked["/power"][0]["Range"] == f"bytes={HALF}-"


def test_content_that_has_changed_since_the_first_time_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    path = sources_file(tmp_path, [["a.txt", server.url("/moving")]])
    target = tmp_path / "out/main/download/a.txt"
    server.behaviours["/moving"] = lambda request, number: request.part(CONTENT, ETAG)
    fetch(read_sources(str(path)), tmp_path / "out", options(server))
    server.behaviours["/moving"] = lambda request, number: request.part(OTHER, '"v2"')
    fetch(read_sources(str(path)), tmp_path / "out", options(server))
    assert target.read_bytes() == CONTENT, "what is there is not fetched again"
    target.unlink()
    with pytest.raises(DataError) as refused:
        fetch(read_sources(str(path)), tmp_path / "out", options(server))
    assert hashlib.sha256(OTHER).hexdigest() in str(refused.value)
    assert f"sources.lock.json says sha256 {SHA}" in str(refused.value)
    assert not target.exists()


def test_a_file_for_which_there_is_no_room_is_not_begun(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviours["/large"] = FAULTS["none"].does
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="cannot be written: 480,000 bytes are still to come, there is room for 1,000"):
        fetch(
            read_sources(str(sources_file(tmp_path, [["a.txt", server.url("/large")]]))),
            tmp_path / "out",
            options(server),
        )
    assert list((tmp_path / "out/main/download").iterdir()) == []


def test_a_lock_file_that_cannot_be_written_is_told(server: FaultyServer, tmp_path: Path) -> None:
    server.behaviours["/locked"] = FAULTS["none"].does
    sources = read_sources(str(sources_file(tmp_path, [["a.txt", server.url("/locked")]])))
    with pytest.raises(DataError, match=r"nowhere/x\.json cannot be written: .* name another place with --lock"):
        fetch(sources, tmp_path / "out", options(server, lock=tmp_path / "nowhere/x.json"))
    assert fetch(sources, tmp_path / "out", options(server, lock=tmp_path / "x.json"))
    assert (tmp_path / "x.json").exists()


def test_one_failure_does_not_keep_others_from_arriving(server: FaultyServer, tmp_path: Path) -> None:
    server.behaviours.update({"/good": FAULTS["none"].does, "/bad": FAULTS["404"].does})
    names = ["a", "b", "c", "d", "e"]
    urls = [[f"{name}.txt", server.url("/bad" if name == "c" else "/good")] for name in names]
    with pytest.raises(DataError, match=r"main/c\.txt: the server says 404") as refused:
        fetch(read_sources(str(sources_file(tmp_path, urls))), tmp_path / "out", options(server))
    assert len(str(refused.value).splitlines()) == 2
    assert sorted(path.stem for path in (tmp_path / "out/main/download").iterdir()) == ["a", "b", "d", "e"]


def test_progress_ends_at_the_bytes_that_there_are(server: FaultyServer, tmp_path: Path) -> None:
    server.behaviours["/seen"] = cut_once
    told: list[tuple[int, int]] = []
    urls = [["a.txt", server.url("/seen")], ["b.txt", server.url("/seen")]]
    path = sources_file(tmp_path, urls, est_size_mb=0.1)
    fetch(
        read_sources(str(path)),
        tmp_path / "out",
        options(server),
        lambda what: nullcontext(lambda done, total: told.append((done, total))),
    )
    assert told[-1] == (2 * len(CONTENT), 2 * len(CONTENT))
    assert all(done <= total for done, total in told)


def test_what_a_host_must_be_allowed_for_is_said_before_anything_is_asked(server: FaultyServer, tmp_path: Path) -> None:
    server.asked.clear()
    path = sources_file(tmp_path, [["a.txt", server.url("/file")], ["b.txt", "https://example.org:8443/x"]])
    with pytest.raises(ConfigError) as refused:
        fetch(read_sources(str(path)), tmp_path / "out")
    assert f"sources.main.urls.0: http://{server.host} is not encrypted" in str(refused.value)
    assert "sources.main.urls.1: https://example.org:8443 is not at the usual port" in str(refused.value)
    assert "--allow-host example.org:8443" in str(refused.value)
    assert server.asked == {}
    assert not (tmp_path / "out").exists()
