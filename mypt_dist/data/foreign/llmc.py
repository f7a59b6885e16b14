"""The shards of llm.c, modded-nanogpt and their FineWeb downloads: a header of 256 int32, then tokens."""

import struct
from pathlib import Path

from mypt_dist.data.foreign.dataset import (
    ForeignDataset,
    RawFile,
    by_split,
    files_in,
    first_bytes,
    raw_dataset,
)
from mypt_dist.errors import DataError

HEADER_BYTES = 1024
KINDS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
"""(magic, version) -> type of the tokens: of GPT-2, of Llama 3."""


class Llmc:
    name = "llmc"
    title = "shards of llm.c, such as FineWeb's *_train_000001.bin"

    def recognises(self, path: Path) -> bool:
        return any(has_header(first_bytes(file, 8)) for file in files_in(path, ".bin"))

    def open(self, path: Path) -> ForeignDataset:
        return raw_dataset(self.name, by_split(tuple(map(_shard, files_in(path, ".bin")))))


def has_header(data: bytes) -> bool:
    """Whether a file that begins with ``data`` is a shard of llm.c."""
    return len(data) >= 8 and struct.unpack("<2i", data[:8]) in KINDS


def _shard(path: Path) -> RawFile:
    header = first_bytes(path, HEADER_BYTES)
    if not has_header(header):
        raise DataError(f"{path} does not begin with the header of llm.c, other files there do")
    *kind, count = struct.unpack("<3i", header[:12])
    shard = RawFile.rest_of(path, KINDS[kind[0], kind[1]], HEADER_BYTES)
    if shard.count != count:
        raise DataError(f"{path}: its header says {count:,} tokens, it holds {shard.count:,}: it was cut short")
    return shard
