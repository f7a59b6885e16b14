"""What is a document, and what is left out? Text from bytes, and the hash that decides where it goes."""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mypt_dist.tokenizers.base import well_formed

DIGEST_BYTES = 16
_KEY = b"mypt-dist documents 1"
_HASHED_AT_ONCE = 1 << 17
_BOM = "\ufeff"
START_CHARACTERS = 200
"""What is kept of a text that is left out, to be shown."""

OnBadUtf8 = Literal["skip", "replace"]
ProblemKind: TypeAlias = str
"""A field of `mypt_dist.data.manifest.Counts`, or the ``type`` of a filter."""


class LeftOutError(Exception):
    """A document is not taken."""

    def __init__(self, kind: ProblemKind, detail: str = "", start: str = "") -> None:
        super().__init__(kind)
        self.kind, self.detail, self.start = kind, detail, start[:START_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Document:
    """A text worth keeping."""

    text: str
    digest: bytes
    """`DIGEST_BYTES` of its UTF-8."""
    text_bytes: int
    repaired: bool
    """Whether something in it was not UTF-8 and was replaced."""
    sketch: bytes = b""
    """By what near duplicates are known, where they are looked for."""


class Digest:
    """The keyed hash (BLAKE2b) of a document's UTF-8, fed in pieces. Equal texts, and only they, have equal ones."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES, key=_KEY)
        self.text_bytes = 0

    def update(self, text: str) -> None:
        """Add the next piece of the document."""
        for begin in range(0, len(text), _HASHED_AT_ONCE):
            data = text[begin : begin + _HASHED_AT_ONCE].encode()
            self.text_bytes += len(data)
            self._hash.update(data)

    def digest(self) -> bytes:
        """`DIGEST_BYTES` bytes."""
        return self._hash.digest()


def is_held_out(digest: bytes, val_fraction: float) -> bool:
    """Whether the document belongs to ``val``: a function of its content alone, so that others do not matter."""
    return int.from_bytes(digest[:8], "big") < val_fraction * 2.0**64


def document_from_bytes(data: bytes, on_bad: OnBadUtf8) -> Document:
    """A whole file as a document; a byte order mark is dropped. Raises `LeftOutError`."""
    repaired = False
    try:
        text = data.decode()
    except UnicodeDecodeError:
        if on_bad == "skip":
            raise LeftOutError("bad_utf8") from None
        text, repaired = data.decode(errors="replace"), True
    return _document(text.removeprefix(_BOM), repaired)


def document_from_value(value: bytes | None, on_bad: OnBadUtf8) -> Document:
    """What stands in a row of a table as a document. Raises `LeftOutError`."""
    if value is None:
        raise LeftOutError("no_text", "null")
    return document_from_bytes(value, on_bad)


def document_from_line(line: bytes, field: str, on_bad: OnBadUtf8) -> Document:
    """A line of JSON Lines as a document: the text in ``field``, a path such as ``article.body``.

    Raises `LeftOutError`.
    """
    repaired = False
    try:
        decoded = line.decode()
    except UnicodeDecodeError:
        if on_bad == "skip":
            raise LeftOutError("bad_utf8") from None
        decoded, repaired = line.decode(errors="replace"), True
    try:
        row = json.loads(decoded.removeprefix(_BOM))
    except (ValueError, RecursionError):
        raise LeftOutError("bad_json") from None
    for key in field.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    if not isinstance(row, str):
        raise LeftOutError("bad_json")
    return _document(*_without_surrogates(row, repaired, on_bad))


def decoded(blocks: Iterable[bytes], errors: Literal["strict", "replace"]) -> Iterator[str]:
    """The text of a file that comes in ``blocks``; a byte order mark is dropped. Raises UnicodeDecodeError."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    at_start = True
    for block in blocks:
        text = decoder.decode(block)
        if at_start and text:
            at_start, text = False, text.removeprefix(_BOM)
        yield text
    yield decoder.decode(b"", final=True)


def _without_surrogates(text: str, repaired: bool, on_bad: OnBadUtf8) -> tuple[str, bool]:
    """JSON can spell half a character (``"\\ud800"``), which is as bad as a broken byte."""
    try:
        text.encode()
    except UnicodeEncodeError:
        if on_bad == "skip":
            raise LeftOutError("bad_utf8") from None
        return well_formed(text), True
    return text, repaired


def _document(text: str, repaired: bool) -> Document:
    if not text or text.isspace():
        raise LeftOutError("empty")
    digest = Digest()
    digest.update(text)
    return Document(text, digest.digest(), digest.text_bytes, repaired)
