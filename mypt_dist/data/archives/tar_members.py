"""What is in a tar archive, read once from front to back.

`tarfile` decodes a header's 512 bytes. Its own loop is not used: it reads extended headers of any size into memory,
and understands links, sparse files and much else that is refused here.
"""

import re
import tarfile
from collections.abc import Callable, Iterator

from mypt_dist.data.archives.limits import Budget, RefusedError
from mypt_dist.data.archives.tree import Member

BLOCK_BYTES = 512
READ_BYTES = 1 << 17
MAX_EXTENDED_BYTES = 1 << 20
"""Of a header that says more about a member: its long name and the like."""
HEADERS_PER_ENTRY = 4
"""A member may have some extended headers besides its own."""
MAX_PADDING_BYTES = 4 << 20
"""Zeros behind the end. Archives are filled up to a whole record of a tape."""

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REFUSED = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_SPARSE_KEYS = ("GNU.sparse.", "SCHILY.realsize")
_RECORD_LENGTH = re.compile(rb"([0-9]{1,7}) ")

Read = Callable[[int], bytes]
"""At most so many bytes; none at the end."""


def tar_members(read: Read, budget: Budget) -> Iterator[Member]:
    """The members of the archive whose bytes ``read`` gives. Raises `RefusedError`."""
    return _Tar(read, budget).members()


class _Tar:
    def __init__(self, read: Read, budget: Budget) -> None:
        self._read_some, self._max_entries = read, budget.max_entries
        self._headers = 0
        self._left = 0
        """Bytes of the current member that were not read yet."""
        self._extended: dict[str, str] = {}
        """What earlier headers say of the next member."""

    def members(self) -> Iterator[Member]:
        while (header := self._header()) is not None:
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                self._extended |= _checked(_pax_records(self._content(header)))
            elif header.type == tarfile.XGLTYPE:
                _refuse_global(_pax_records(self._content(header)))
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                self._extended = {"path": _text(self._content(header).rstrip(b"\0")), **self._extended}
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                # Of a link, which is refused when it comes.
                self._content(header)
            else:
                yield from self._member(header)
        self._expect_zeros()

    def _member(self, header: tarfile.TarInfo) -> Iterator[Member]:
        name, size = self._extended.get("path", header.name), _size(self._extended.get("size"), header)
        self._extended = {}
        if header.type in _REFUSED:
            raise RefusedError(f"{name!r} is {_REFUSED[header.type]}: files and folders alone are accepted")
        if header.type == tarfile.DIRTYPE:
            if size:
                raise RefusedError(f"the folder {name!r} is said to have content")
            yield Member(name, None)
        elif header.type in _FILES:
            self._left = size
            yield Member(name, self._blocks(name))
            self._read_exactly(-size % BLOCK_BYTES)
        else:
            raise RefusedError(f"{name!r} is of the unknown kind {header.type!r}: files and folders alone are accepted")

    def _blocks(self, name: str) -> Iterator[bytes]:
        while self._left:
            block = self._read_some(min(self._left, READ_BYTES))
            if not block:
                raise RefusedError(f"it ends in the middle of {name!r}")
            self._left -= len(block)
            yield block

    def _header(self) -> tarfile.TarInfo | None:
        """The next one, or None at the end of the archive."""
        assert not self._left, "the content of a member is read before the next member"
        data = self._read_exactly(BLOCK_BYTES)
        if not any(data):
            return None
        self._headers += 1
        if self._headers > HEADERS_PER_ENTRY * self._max_entries:
            raise RefusedError(f"it has more than {HEADERS_PER_ENTRY * self._max_entries:,} headers (--max-files)")
        try:
            return tarfile.TarInfo.frombuf(data, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise RefusedError(f"a header is damaged: {error}") from None

    def _content(self, header: tarfile.TarInfo) -> bytes:
        """What an extended header says."""
        if not 0 <= header.size <= MAX_EXTENDED_BYTES:
            raise RefusedError(
                f"an extended header is said to have {header.size:,} bytes, at most {MAX_EXTENDED_BYTES:,} are accepted"
            )
        content = self._read_exactly(header.size)
        self._read_exactly(-header.size % BLOCK_BYTES)
        return content

    def _read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._read_some(size - len(data))
            if not more:
                raise RefusedError("it ends before its end is marked: it was cut short, or is no tar archive")
            data += more
        return data

    def _expect_zeros(self) -> None:
        """Read on to the very end, where compressed data holds the checksum of all of it."""
        padding = 0
        while data := self._read_some(READ_BYTES):
            padding += len(data)
            if any(data) or padding > MAX_PADDING_BYTES:
                raise RefusedError("there is more behind its end")


def _size(extended: str | None, header: tarfile.TarInfo) -> int:
    if extended is not None and not (extended.isascii() and extended.isdigit() and len(extended) < 20):
        raise RefusedError(f"the size of {header.name!r} is said to be {extended[:40]!r}")
    size = header.size if extended is None else int(extended)
    if size < 0:
        raise RefusedError(f"the size of {header.name!r} is said to be {size:,}")
    return size


def _pax_records(data: bytes) -> dict[str, str]:
    """``"18 path=some/name\\n"`` and so on. Raises `RefusedError` for anything else."""
    records = {}
    while data:
        match = _RECORD_LENGTH.match(data)
        record = data[: int(match[1])] if match else b""
        key, sign, value = record[match.end() if match else 0 :].partition(b"=")
        if not sign or not value.endswith(b"\n") or len(record) != int(match[1] if match else 0):
            raise RefusedError("an extended header cannot be read")
        records[_text(key)] = _text(value[:-1])
        data = data[len(record) :]
    return records


def _checked(records: dict[str, str]) -> dict[str, str]:
    """What matters of the records of one member."""
    if sparse := [key for key in records if key.startswith(_SPARSE_KEYS)]:
        raise RefusedError(f"a member is a sparse file ({sparse[0]}): files and folders alone are accepted")
    return {key: value for key, value in records.items() if key in ("path", "size")}


def _refuse_global(records: dict[str, str]) -> None:
    if found := sorted(_checked(records)):
        raise RefusedError(f"one {found[0]} is given for all members")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
