"""What servers do to a download, and what must become of it."""

import hashlib
import itertools
from dataclasses import dataclass

from faulty_server import CONTENT, ETAG, HALF, OTHER, Behaviour, Request

from mypt_dist.data.sources.pace import Pace

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
    "trickle, in all": Fault(trickle, "took longer than 0.3 s", pace=Pace(whole_s=0.3, wait_s=0.01), is_kept=True),
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
