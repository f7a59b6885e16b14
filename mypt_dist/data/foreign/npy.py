"""Token shards in NumPy's own format: one row of integers in each ``.npy``."""

import re
from pathlib import Path

from mypt_dist.data.foreign.dataset import ForeignDataset, RawFile, by_split, files_in, first_bytes, raw_dataset
from mypt_dist.errors import DataError

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000
ROW = re.compile(
    rb"\{'descr': '(?P<dtype>[<>|][iu][1248])', 'fortran_order': (True|False), "
    rb"'shape': \((?P<count>\d{1,18}),\), ?\}\s*"
)
"""The one header that is a row of integers. All others, pickled objects among them, are refused unread."""


class Npy:
    name = "npy"
    title = "rows of integers in .npy files"

    def recognises(self, path: Path) -> bool:
        return any(first_bytes(file, len(MAGIC)) == MAGIC for file in files_in(path, ".npy"))

    def open(self, path: Path) -> ForeignDataset:
        return raw_dataset(self.name, by_split(tuple(map(_shard, files_in(path, ".npy")))))


def _shard(path: Path) -> RawFile:
    start = first_bytes(path, MAX_HEADER)
    if not start.startswith(MAGIC) or len(start) < 12 or start[6] not in (1, 2, 3):
        raise DataError(f"{path} does not begin as an .npy file does")
    # Version 1 has 16 bits for the length of its header, later ones 32.
    begin = 10 if start[6] == 1 else 12
    end = begin + int.from_bytes(start[8:begin], "little")
    header = ROW.fullmatch(start[begin:end])
    if end > len(start) or header is None:
        raise DataError(f"{path} is no row of integers; its header is {start[begin : min(end, begin + 80)]!r}")
    found = RawFile.rest_of(path, header["dtype"].decode(), end)
    if found.count != int(header["count"]):
        raise DataError(
            f"{path}: its header says {int(header['count']):,} tokens, it holds {found.count:,}: it was cut short"
        )
    return found
