"""What bytes a safetensors file of flat segments consists of, and where in it each segment lies."""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mypt_dist.checkpoint.layout import part_name
from mypt_dist.checkpoint.segments import ITEM_BYTES, Segment
from mypt_dist.config.strict_json import parse_json
from mypt_dist.errors import ConfigError

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Part:
    """One file: its name in the checkpoint and the segments in it, in order."""

    file: str
    segments: tuple[Segment, ...]

    @cached_property
    def header(self) -> bytes:
        """Length and JSON header. Padded so that the data begins, as every element does, at its own multiple."""
        entries, offset = {}, 0
        for segment in self.segments:
            ends = [offset, offset + segment.bytes]
            entries[segment.key] = {"dtype": segment.dtype, "shape": [segment.length], "data_offsets": ends}
            offset = ends[1]
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH.size)
        return _LENGTH.pack(len(text)) + text

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(segment.bytes for segment in self.segments)

    def pieces(self) -> Iterator[memoryview]:
        """The file's content; each segment's data is asked for in its turn. Raises ValueError on a wrong size."""
        yield memoryview(self.header)
        for segment in self.segments:
            with memoryview(segment.data()) as view:
                if view.nbytes != segment.bytes:
                    raise ValueError(f"{segment.name} should have {segment.bytes} bytes, its data has {view.nbytes}")
                with view.cast("B") as data:
                    yield data


def plan_parts(segments: Iterable[Segment], rank: int, size: int, part_bytes: int) -> list[Part]:
    """Deal a rank's segments out to files of about ``part_bytes``, in order, wide element types first.

    Raises ValueError where two segments of a tensor start at the same element.
    """
    parts: list[Part] = []
    held = [segment for segment in segments if segment.length]
    for folder in sorted({segment.folder for segment in held}):
        mine = sorted((s for s in held if s.folder == folder), key=lambda s: -ITEM_BYTES[s.dtype])
        keys = [segment.key for segment in mine]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"two segments are called {twice}")
        for number, group in enumerate(_groups(mine, part_bytes)):
            parts.append(Part(part_name(folder, rank, size, number), tuple(group)))
    return parts


def _groups(segments: list[Segment], part_bytes: int) -> Iterator[list[Segment]]:
    group: list[Segment] = []
    filled = 0
    for segment in segments:
        if group and filled + segment.bytes > part_bytes:
            yield group
            group, filled = [], 0
        group.append(segment)
        filled += segment.bytes
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a segment lies in its file: ``[begin, end)`` bytes, elements of ``dtype``."""

    dtype: str
    begin: int
    end: int


def read_header(content: memoryview) -> dict[str, Stored]:
    """Key -> place, for a safetensors file of 1-D arrays. Raises ValueError for anything else."""
    if content.nbytes < _LENGTH.size:
        raise ValueError("it is shorter than a safetensors header")
    (length,) = _LENGTH.unpack_from(content)
    data = _LENGTH.size + length
    if data > content.nbytes:
        raise ValueError("its header is longer than the file")
    try:
        header = parse_json(str(content[_LENGTH.size : data], "utf-8"), "its header")
        return {key: _stored(header[key], data, content.nbytes) for key in header if key != "__metadata__"}
    except (ConfigError, KeyError, TypeError) as error:
        raise ValueError(f"its header is malformed: {error}") from None


def _stored(entry: dict[str, Any], data: int, size: int) -> Stored:
    (length,), (begin, end) = entry["shape"], entry["data_offsets"]
    if not 0 <= begin <= end <= size - data or end - begin != length * ITEM_BYTES[entry["dtype"]]:
        raise ValueError(f"its header is malformed: {entry}")
    return Stored(entry["dtype"], data + begin, data + end)
