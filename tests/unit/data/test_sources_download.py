"""Servers that fail in every way: what arrives is whole and right, or not there."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faulty_server import CONTENT, ETAG, HALF, OTHER, Behaviour, FaultyServer, Request, serving

from mypt_dist.data.sources import FetchOptions, fetch, read_sources
from mypt_dist.data.sources.pace import Pace
from mypt_dist.errors import ConfigError, DataError

PACE = Pace(connect_s=5, idle_s=10, slow_s=10, whole_s=60, attempts=3, progress_bytes=1, wait_s=0.01, max_wait_s=0.05)
HASTY = Pace(connect_s=20, slow_bytes=10_000, slow_s=0.4, attempts=2, wait_s=0.01)
IMPATIENT = Pace(connect_s=20, idle_s=0.3, attempts=2, wait_s=0.01)
SHA = hashlib.sha256(CONTENT).hexdigest()


@dataclass(frozen=True)
class Fault:
    does: Behaviour
    said: str | None = None
    """A part of what is said where it is refused; None where it must arrive."""
    content: bytes = CONTENT
    pinned: str | None = None
    requests: int | None = None
    pace: Pace = PACE
    file: str = "corpus.txt"
    is_kept: bool = False
    """Whether what arrived may be gone on with."""


def cut_once(request: Request, number: int) -> None:
    request.part(CONTENT, ETAG, sent=None if number else HALF)


def cut_in_ten(request: Request, number: int) -> None:
    request.part(CONTENT, ETAG, sent=len(CONTENT) // 10 + 1)


def changed_when_resumed(request: Request, number: int) -> None:
    request.part(OTHER, '"v2"') if number else request.part(CONTENT, ETAG, sent=HALF)


def changed_and_resumed_all_the_same(request: Request, number: int) -> None:
    if number == 1:
        rest = OTHER[request.begin :]
        range_ = f"bytes {request.begin}-{len(OTHER) - 1}/{len(OTHER)}"
        request.answer(rest, 206, Content_Range=range_, ETag='"v2"')
    else:
        changed_when_resumed(request, number)


def changed_unseen(request: Request, number: int) -> None:
    """Another content under the same ETag. Only a hash can tell."""
    request.part(CONTENT if number else OTHER, ETAG, sent=HALF if number == 0 else None)


def no_ranges(request: Request, number: int) -> None:
    request.answer(CONTENT if number else CONTENT[:HALF], length=len(CONTENT), ETag=ETAG)


def no_validator(request: Request, number: int) -> None:
    request.answer(CONTENT if number else CONTENT[:HALF], length=len(CONTENT))


def weak_etag(request: Request, number: int) -> None:
    request.answer(CONTENT if number else CONTENT[:HALF], length=len(CONTENT), ETag="W/" + ETAG)


def by_date(request: Request, number: int) -> None:
    request.part(
        CONTENT,
        "Mon, 06 Oct 2025 10:00:00 GMT",
        sent=None if number else HALF,
        Last_Modified="Mon, 06 Oct 2025 10:00:00 GMT",
    )


def announces_more(request: Request, number: int) -> None:
    request.answer(CONTENT, length=len(CONTENT) + 500, ETag=ETAG)


def announces_less(request: Request, number: int) -> None:
    request.answer(CONTENT[:-500], ETag=ETAG)


def endless(request: Request, number: int) -> None:
    request.head(200, Transfer_Encoding="chunked")
    request.drip(itertools.repeat(b"10000\r\n" + b"x" * 0x10000 + b"\r\n"), 0)


def enormous(request: Request, number: int) -> None:
    request.answer(CONTENT, length=1 << 50)


def too_large_for_the_disk(request: Request, number: int) -> None:
    request.answer(CONTENT, length=90 * 10**9 * 1000)


def without_an_end(request: Request, number: int) -> None:
    request.head(200, ETag=ETAG)
    request.wfile.write(CONTENT)


def cut_without_an_end(request: Request, number: int) -> None:
    request.head(200, ETag=ETAG)
    request.wfile.write(CONTENT[:HALF])


def cut_within_headers(request: Request, number: int) -> None:
    if number:
        request.part(CONTENT, ETAG)
    else:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nServer: hasty\r\nConte")


def chunked(request: Request, number: int) -> None:
    request.head(200, Transfer_Encoding="chunked")
    request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))


def chunked_and_cut(request: Request, number: int) -> None:
    request.head(200, Transfer_Encoding="chunked")
    request.wfile.write(b"%x\r\n%s\r\n" % (len(CONTENT), CONTENT))


def trickle(request: Request, number: int) -> None:
    request.head(200, Content_Length=len(CONTENT), ETag=ETAG)
    request.drip(bytes([byte]) for byte in CONTENT)


def trickling_headers(request: Request, number: int) -> None:
    request.drip(itertools.chain([b"HTTP/1.1 200 OK\r\n"], (b"X-%d: x\r\n" % i for i in itertools.count())))


def standing_still(request: Request, number: int) -> None:
    request.head(200, Content_Length=len(CONTENT), ETag=ETAG)
    request.drip(iter([CONTENT[:HALF]]), 2)


def silent(request: Request, number: int) -> None:
    request.drip(iter([b""]), 2)


def many_headers(request: Request, number: int) -> None:
    request.head(200, **{f"X_{i}": i for i in range(300)})


def no_http(request: Request, number: int) -> None:
    request.wfile.write(b"\x1b[2J SSH-2.0-OpenSSH\r\n" * 3)


def redirect(where: str) -> Behaviour:
    return lambda request, number: request.answer(b"moved", 302, Location=where)


def first_then(status: int, times: int, **headers: object) -> Behaviour:
    def does(request: Request, number: int) -> None:
        request.part(CONTENT, ETAG) if number >= times else request.answer(b"no", status, **headers)

    return does


def wrong_range(begin: int, status: int = 206) -> Behaviour:
    def does(request: Request, number: int) -> None:
        if number == 0:
            request.part(CONTENT, ETAG, sent=HALF)
        else:
            range_ = f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
            request.answer(CONTENT[begin:], status, Content_Range=range_, ETag=ETAG)

    return does


def never_the_same(request: Request, number: int) -> None:
    """Cut, and by the next request another file."""
    request.part(CONTENT, f'"v{number}"', sent=HALF)


def refuses_ranges(request: Request, number: int) -> None:
    if request.begin:
        request.answer(b"", 416, Content_Range="bytes */0")
    else:
        cut_once(request, number)


def packed(encoding: str) -> Behaviour:
    return lambda request, number: request.answer(CONTENT, Content_Encoding=encoding)


FAULTS: dict[str, Fault] = {
    "none": Fault(lambda request, number: request.part(CONTENT, ETAG), requests=1),
    "cut": Fault(cut_once, requests=2),
    "cut again and again": Fault(cut_in_ten, requests=10),
    "cut, by date": Fault(by_date, requests=2),
    "cut, then changed": Fault(changed_when_resumed, content=OTHER, requests=2),
    "cut, then changed, and If-Range ignored": Fault(changed_and_resumed_all_the_same, content=OTHER, requests=3),
    "cut, then changed under the same ETag": Fault(changed_unseen, pinned=SHA, requests=3),
    "cut, and changed every time": Fault(never_the_same, "(3 attempts)", is_kept=True),
    "cut, and Range ignored": Fault(no_ranges, requests=2),
    "cut, without a validator": Fault(no_validator, requests=2),
    "cut, with a weak ETag": Fault(weak_etag, requests=2),
    "cut, and ranges refused": Fault(refuses_ranges, requests=3),
    "another part than asked for": Fault(wrong_range(HALF - 100), "not the one asked for", is_kept=True),
    "a part where none was asked for": Fault(first_then(206, 9, Content_Range="bytes 0-1/2"), "not the one asked for"),
    "announces more": Fault(announces_more, "500 bytes before the end (3 attempts)", is_kept=True),
    "announces less, pinned": Fault(announces_less, "is not what it must be", pinned=SHA),
    "endless": Fault(endless, "more than 1,000,000 bytes"),
    "enormous": Fault(enormous, "more than 1,000,000 bytes", requests=1),
    "without an end": Fault(without_an_end, "does not say where it ends", requests=3),
    "without an end, pinned": Fault(without_an_end, pinned=SHA, requests=1),
    "cut without an end, pinned": Fault(cut_without_an_end, "is not what it must be", pinned=SHA, requests=2),
    "cut within the headers": Fault(cut_within_headers, requests=2),
    "cut within the headers, pinned": Fault(cut_within_headers, pinned=SHA, requests=2),
    "chunked": Fault(chunked, requests=1),
    "chunked, cut": Fault(chunked_and_cut, "(3 attempts)"),
    "trickle": Fault(trickle, "too slow", pace=HASTY, is_kept=True),
    "trickling headers": Fault(trickling_headers, "too slow", pace=HASTY),
    "standing still": Fault(standing_still, "nothing came in time", pace=IMPATIENT, is_kept=True),
    "silent": Fault(silent, "nothing came in time", pace=IMPATIENT),
    "many headers": Fault(many_headers, "more than 100 headers"),
    "no HTTP": Fault(no_http, "SSH"),
    "redirect": Fault(redirect("/fine"), requests=1),
    "redirect to a private address": Fault(redirect("http://10.0.0.1/x"), "10.0.0.1 is not encrypted", requests=1),
    "redirect to another port": Fault(redirect("http://127.0.0.1:1/x"), "127.0.0.1:1 is not encrypted", requests=1),
    "redirect to the metadata of a cloud": Fault(
        redirect("http://169.254.169.254/latest/meta-data"), "169.254.169.254 is not encrypted", requests=1
    ),
    "redirect to a private address with TLS": Fault(redirect("https://127.0.0.1/x"), "not a public address"),
    "redirect to a short spelling": Fault(redirect("https://127.1/x"), "is at 127.0.0.1, which is not a public"),
    "redirect to a number": Fault(redirect("https://2130706433/x"), "is at 127.0.0.1, which is not a public"),
    "redirect to a file": Fault(redirect("file:///etc/passwd"), "begins with https"),
    "redirect with a password": Fault(redirect("https://a:b@example.org/"), "a user or password"),
    "redirects in a circle": Fault(redirect("/file"), "more than 5 redirects", requests=6),
    "404": Fault(first_then(404, 9), "404 Not Found", requests=1),
    "403, resumed": Fault(wrong_range(0, 403), "403 Forbidden", requests=2, is_kept=True),
    "500 twice": Fault(first_then(500, 2), requests=3),
    "503 for ever": Fault(first_then(503, 99), "503 Service Unavailable (3 attempts)", requests=3),
    "429 with seconds": Fault(first_then(429, 1, Retry_After=0), requests=2),
    "429 with a year": Fault(first_then(429, 1, Retry_After=31_536_000), requests=2),
    "429 with a date": Fault(first_then(429, 1, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), requests=2),
    "429 with nonsense": Fault(first_then(429, 1, Retry_After="soon"), requests=2),
    "packed on the way": Fault(packed("gzip"), "packs it on the way"),
    "packed file called packed": Fault(packed("x-gzip"), file="corpus.txt.gz"),
    "other content than pinned": Fault(lambda request, number: request.part(OTHER, ETAG), SHA, pinned=SHA, requests=1),
}


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
    if fault.said is None:
        fetch(sources, out, options(server, fault.pace))
        assert target.read_bytes() == fault.content
        pin = json.loads(lock.read_text())["files"][f"main/{fault.file}"]
        assert (pin["sha256"], pin["bytes"]) == (hashlib.sha256(fault.content).hexdigest(), len(fault.content))
        assert [path.name for path in target.parent.iterdir()] == [target.name]
    else:
        with pytest.raises(DataError) as refused:
            fetch(sources, out, options(server, fault.pace))
        assert fault.said in str(refused.value)
        assert f"main/{fault.file}" in str(refused.value)
        assert all(line.isprintable() for line in str(refused.value).splitlines())
        assert not target.exists()
        assert not lock.exists()
        names = {path.name for path in target.parent.iterdir()}
        assert names == ({f"{target.name}.part", f"{target.name}.part.json"} if fault.is_kept else set())
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


def test_one_failure_does_not_keep_others_from_arriving(server: FaultyServer, tmp_path: Path) -> None:
    server.behaviours.update({"/good": FAULTS["none"].does, "/bad": FAULTS["404"].does})
    names = ["a", "b", "c", "d", "e"]
    urls = [[f"{name}.txt", server.url("/bad" if name == "c" else "/good")] for name in names]
    with pytest.raises(DataError, match=r"main/c\.txt: the server says 404") as refused:
        fetch(read_sources(str(sources_file(tmp_path, urls))), tmp_path / "out", options(server))
    assert len(str(refused.value).splitlines()) == 2
    assert sorted(path.stem for path in (tmp_path / "out/main/download").iterdir()) == ["a", "b", "d", "e"]


def test_progress_ends_at_the_bytes_that_there_are(server: FaultyServer, tmp_path: Path) -> None:
    from contextlib import nullcontext

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
