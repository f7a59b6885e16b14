"""What is in a zip archive.

`zipfile` reads the index at its end. Where the members lie, and what comes out of them, is checked here: before the
first is read, no two may share a byte, and each must begin with a header that bears its name.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from mypt_dist.data.archives.joined import JoinedFile
from mypt_dist.data.archives.limits import Budget, RefusedError
from mypt_dist.data.archives.tree import Member

READ_BYTES = 1 << 17
INDEX_BYTES_PER_ENTRY = 256
"""Of the index, for each entry that is accepted: names, and what is said about them."""

_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_UTF8, _PATCH, _ENCRYPTED = 0x800, 0x20, 0x1 | 0x40 | 0x2000


@dataclass(frozen=True, slots=True)
class _Placed:
    """A member and where its bytes are."""

    info: zipfile.ZipInfo
    begin: int
    """Of its local header."""
    data: int
    """Of its compressed bytes."""

    @property
    def name(self) -> str:
        return self.info.orig_filename

    @property
    def end(self) -> int:
        return self.data + self.info.compress_size


def index_bytes(budget: Budget) -> int:
    """How much of an index is read into memory at most."""
    return INDEX_BYTES_PER_ENTRY * budget.max_entries + (1 << 17)


def zip_members(file: JoinedFile, budget: Budget, advance: Callable[[int], None]) -> Iterator[Member]:
    """The members of an archive, in the order of its index. Raises `RefusedError`.

    ``advance`` is told how many bytes of the archive were read.
    """
    infos, start_of_index, shift = _index(file)
    for info in infos:
        _refuse_unusual(info)
    placed = [_place(file, info, shift) for info in infos]
    _refuse_overlaps(placed, start_of_index)
    for member in placed:
        if _is_folder(member.info):
            yield Member(member.name, None)
        else:
            yield Member(member.name, _content(file, member, advance))


def _index(file: JoinedFile) -> tuple[list[zipfile.ZipInfo], int, list[int]]:
    """The members; where the index begins; for each part of the archive, what to add to the offsets in it."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, start, comment = archive.infolist(), archive.start_dir, len(archive.comment)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise RefusedError(f"it has no index that can be read, as if parts were missing: {error}") from None
    file.seek(max(0, file.size - _END.size - comment))
    end = file.read(_END.size)
    if not end.startswith(zipfile.stringEndArchive):  # type: ignore[attr-defined]
        raise RefusedError("there is more behind its end")
    _, disk, *_, offset, _ = _END.unpack(end)
    parts = len(file.starts) - 1
    if not disk:
        return infos, start, [0]
    if disk + 1 != parts:
        raise RefusedError(f"it says that it has {disk + 1} parts, and {parts} are given")
    # Offsets count from the start of a part. What zipfile has added to all of them is taken off again.
    added = start - offset
    return infos, start, [begin - added for begin in file.starts]


def _refuse_unusual(info: zipfile.ZipInfo) -> None:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & _ENCRYPTED:
        raise RefusedError(f"{name!r} is encrypted")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if stat.S_ISLNK(kind) else "a device or a pipe"
        raise RefusedError(f"{name!r} is {what}: files and folders alone are accepted")
    if stat.S_ISDIR(kind) != _is_folder(info) and kind:
        raise RefusedError(f"{name!r} is said to be a folder and to be a file")
    if info.flag_bits & _PATCH or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RefusedError(f"{name!r} is compressed by method {info.compress_type}: stored and deflated are accepted")
    if _is_folder(info) and info.file_size:
        raise RefusedError(f"the folder {name!r} is said to have content")


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


def _place(file: JoinedFile, info: zipfile.ZipInfo, shift: list[int]) -> _Placed:
    """Where ``info`` is. Raises `RefusedError` unless a header of this name is there."""
    name = info.orig_filename
    spelled = name.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    begin = info.header_offset + shift[info.volume] if info.volume < len(shift) else -1
    if begin < 0:
        raise RefusedError(f"{name!r} lies outside of it, as if parts were missing or in the wrong order")
    file.seek(begin)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(zipfile.stringFileHeader):  # type: ignore[attr-defined]
        raise RefusedError(f"{name!r} is not where the index says, as if parts were missing or in the wrong order")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    if file.read(name_bytes) != spelled:
        raise RefusedError(f"{name!r} has another name in front of its content")
    return _Placed(info, begin, begin + _LOCAL.size + name_bytes + extra_bytes)


def _refuse_overlaps(placed: list[_Placed], start_of_index: int) -> None:
    in_order = sorted(placed, key=lambda member: member.begin)
    for member, following in zip_longest(in_order, in_order[1:]):
        if member.end > (following.begin if following else start_of_index):
            other = repr(following.name) if following else "the index"
            raise RefusedError(f"{member.name!r} and {other} share bytes")


def _content(file: JoinedFile, member: _Placed, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes of a member: as many as the index says, with the checksum that it says."""
    info, size, checksum = member.info, 0, 0
    for block in _unpacked(file, member, advance):
        size += len(block)
        if size > info.file_size:
            break
        checksum = zlib.crc32(block, checksum)
        yield block
    if size != info.file_size:
        relation = "more" if size > info.file_size else "fewer"
        raise RefusedError(f"{member.name!r} has {relation} bytes than the {info.file_size:,} it is said to have")
    if checksum != info.CRC:
        raise RefusedError(f"{member.name!r} is damaged: its checksum is another")


def _unpacked(file: JoinedFile, member: _Placed, advance: Callable[[int], None]) -> Iterator[bytes]:
    if member.info.compress_type == zipfile.ZIP_STORED:
        yield from _packed(file, member, advance)
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for packed in _packed(file, member, advance):
            while packed:
                yield inflate.decompress(packed, READ_BYTES)
                packed = inflate.unconsumed_tail
            if inflate.unused_data:
                break
    except zlib.error as error:
        raise RefusedError(f"{member.name!r} is damaged: {error}") from None
    # What is left within the window can be as much again, so it is asked for in the same measure.
    while not inflate.eof and (rest := inflate.decompress(b"", READ_BYTES)):
        yield rest
    if not inflate.eof or inflate.unused_data:
        raise RefusedError(f"{member.name!r} does not end where the index says")


def _packed(file: JoinedFile, member: _Placed, advance: Callable[[int], None]) -> Iterator[bytes]:
    at = member.data
    while at < member.end:
        # Other members are read in between, by whoever asks for them.
        file.seek(at)
        packed = file.read(min(READ_BYTES, member.end - at))
        at += len(packed)
        advance(len(packed))
        yield packed
