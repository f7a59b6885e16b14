"""What does a server's answer mean for a download?"""

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from mypt_dist.data.archives.kinds import PACKING, kind_of
from mypt_dist.data.sources.addresses import ForbiddenError
from mypt_dist.data.sources.web import Answer, TransientError

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})\Z")
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_ENCODINGS = {"gzip": ".gz", "x-gzip": ".gz", "bzip2": ".bz2", "x-bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}


class StaleError(Exception):
    """What is there already does not belong to what the server has now."""


@dataclass(frozen=True, slots=True)
class Body:
    """What is going to come."""

    begin: int
    """The first of its bytes, in the file."""
    total: int | None
    """Bytes of the whole file; None where the server does not say."""
    validator: str
    """ETag or date of the file; empty where it has neither, or one that says too little."""


def read_answer(answer: Answer, file: str, begin: int, validator: str) -> Body:
    """What comes in answer to a request for ``file`` from its byte ``begin``, if it is still that of ``validator``.

    Raises `StaleError` to be asked from the start, `TransientError` to be asked again, `ForbiddenError` for good.
    """
    _check_status(answer, begin)
    _check_encoding(answer, file)
    found = validator_of(answer)
    if answer.status == 200:
        return Body(0, answer.length, found)
    match = _RANGE.match(answer.header("Content-Range") or "")
    if not match or not begin:
        raise ForbiddenError(f"it answers with a part that is not the one asked for: {_short(answer)}")
    first, last, total = map(int, match.groups())
    if found not in ("", validator):
        raise StaleError
    if first != begin or last + 1 != total or answer.length not in (None, total - first):
        raise ForbiddenError(f"it answers with a part that is not the one asked for: {_short(answer)}")
    return Body(begin, total, validator)


def validator_of(answer: Answer) -> str:
    """What ``If-Range`` may send. A weak ETag promises a similar file, not the same bytes."""
    etag = answer.header("ETag") or ""
    if etag.startswith('"') and etag.isprintable():
        return etag
    date = answer.header("Last-Modified") or ""
    return date if date.isascii() and date.isprintable() and not etag.startswith("W/") else ""


def _check_status(answer: Answer, begin: int) -> None:
    status = answer.status
    if status == 416 and begin:
        raise StaleError
    if status in _AGAIN:
        raise TransientError(f"the server says {_spelled(status)}", _asked_wait(answer))
    if status not in (200, 206):
        raise ForbiddenError(f"the server says {_spelled(status)}")


def _check_encoding(answer: Answer, file: str) -> None:
    """Some servers call what is packed text that they have packed. That of a .gz is as it should be; no other is."""
    encoding = (answer.header("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity" and _ENCODINGS.get(encoding) != PACKING.get(kind_of(file)):
        raise ForbiddenError(f"the server packs it on the way ({encoding[:40]!r}), though it was asked not to")


def _asked_wait(answer: Answer) -> float | None:
    """Seconds, from Retry-After."""
    text = (answer.header("Retry-After") or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None


def _spelled(status: int) -> str:
    """Not as the server spells it: that could be anything."""
    return f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)


def _short(answer: Answer) -> str:
    return f"{answer.status}, Content-Range {(answer.header('Content-Range') or 'missing')[:80]!r}"
