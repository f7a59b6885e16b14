"""Where in a file of ``torch.save`` does each record lie? Told by the archive's index, before anything is unpickled."""

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from mypt_dist.errors import CheckpointError

MAX_INDEX = 64 << 20
"""Bytes of an archive's index, which has about 100 for each tensor."""
MAX_PICKLE = 64 << 20
"""Bytes of the pickle, which has about 100 for each tensor."""
PICKLE, BYTE_ORDER = "data.pkl", "byteorder"

_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000


@dataclass(frozen=True, slots=True)
class Record:
    """Bytes of an archive, as they are: torch compresses nothing."""

    begin: int
    size: int
    crc: int


class _Bounded(io.RawIOBase):
    """Reads no more at once than an index may have: `zipfile` reads as much as an archive says."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > MAX_INDEX:
            raise ValueError(f"its index is said to have {size:,} bytes")
        return self._file.read(size if size >= 0 else MAX_INDEX)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def records(file: BinaryIO, where: str) -> dict[str, Record]:
    """Every record by its name below the archive's one folder. No two share a byte, and none is compressed.

    Raises `CheckpointError` for anything that ``torch.save`` does not write, in which the readers of different programs
    might see different things.
    """
    try:
        found = _records(file)
        _refuse_unknown(found)
        _refuse_big_endian(file, found.get(BYTE_ORDER))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise CheckpointError(f"{where} is no whole file of torch.save: {error}") from None
    return found


def _records(file: BinaryIO) -> dict[str, Record]:
    with zipfile.ZipFile(_Bounded(file)) as archive:
        infos, index = archive.infolist(), archive.start_dir
    if not infos:
        raise ValueError("it is empty")
    root = infos[0].orig_filename.partition("/")[0]
    placed = sorted((_placed(file, info) for info in infos), key=lambda one: one[0])
    ends = [*(begin for begin, _, _ in placed[1:]), index]
    found: dict[str, Record] = {}
    for (_, name, record), end in zip(placed, ends, strict=True):
        folder, _, rest = name.partition("/")
        if folder != root or not rest or rest in found:
            raise ValueError(f"the name {name!r} does not belong there, or stands twice")
        if record.begin + record.size > end:
            raise ValueError(f"{name} is said to reach into what follows it")
        found[rest] = record
    return found


def _placed(file: BinaryIO, info: zipfile.ZipInfo) -> tuple[int, str, Record]:
    """Where its header begins, its name, and its bytes."""
    name = info.orig_filename
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name!r} is compressed, which torch.save never does")
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"{name!r} is encrypted")
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise ValueError(f"{name!r} is not where the index says")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    if file.read(name_bytes) != name.encode():
        raise ValueError(f"another name than {name!r} stands where the index says")
    begin = info.header_offset + _LOCAL.size + name_bytes + extra_bytes
    return info.header_offset, name, Record(begin, info.file_size, info.CRC)


def _refuse_unknown(found: Mapping[str, Record]) -> None:
    if PICKLE not in found:
        raise ValueError(f"it has no {PICKLE}")
    if found[PICKLE].size > MAX_PICKLE:
        raise ValueError(f"its {PICKLE} has {found[PICKLE].size:,} bytes, a description has at most {MAX_PICKLE:,}")
    for name in found:
        known = name in (PICKLE, BYTE_ORDER, "version") or name.startswith((".", "data/"))
        if not known:
            raise ValueError(f"it has a record {name!r}: it holds a program, or another program wrote it")


def _refuse_big_endian(file: BinaryIO, said: Record | None) -> None:
    if said is None:
        return
    file.seek(said.begin)
    if file.read(min(said.size, 16)).strip() != b"little":
        raise ValueError("its numbers are big-endian")
