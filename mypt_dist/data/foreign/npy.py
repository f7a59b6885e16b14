"""Token shards in NumPy's own format: one row of integers in each ``.npy``."""

from pathlib import Path
from typing import Any

import numpy as np

from mypt_dist.data.foreign.dataset import (
    ForeignDataset,
    RawFile,
    by_split,
    files_in,
    first_bytes,
    raw_dataset,
    size_of,
)
from mypt_dist.errors import DataError

MAGIC = b"\x93NUMPY"


class Npy:
    name = "npy"
    title = "rows of integers in .npy files"

    def recognises(self, path: Path) -> bool:
        return any(first_bytes(file, len(MAGIC)) == MAGIC for file in files_in(path, ".npy"))

    def open(self, path: Path) -> ForeignDataset:
        return raw_dataset(self.name, by_split(tuple(map(_shard, files_in(path, ".npy")))))


def _shard(path: Path) -> RawFile:
    dtype, shape, offset = _header(path)
    if dtype.kind not in "iu" or len(shape) != 1:
        raise DataError(f"{path} holds {dtype} of shape {shape}: tokens are one row of integers")
    found = RawFile.rest_of(path, dtype.str, offset)
    if found.count != shape[0]:
        raise DataError(f"{path}: its header says {shape[0]:,} tokens, it holds {found.count:,}: it was cut short")
    return found


def _header(path: Path) -> "tuple[np.dtype[Any], tuple[int, ...], int]":
    size_of(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            # The text of the header is read as a literal, never evaluated, and limited to 10,000 characters.
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(file)
            return dtype, shape, file.tell()
    except (ValueError, KeyError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise DataError(f"{path} is no .npy file that can be read: {error}") from None
