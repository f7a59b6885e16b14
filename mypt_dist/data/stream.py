"""A split of a dataset as one long row of tokens, whatever the shards it is cut into."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.shards import open_shard
from mypt_dist.errors import ConfigError, DataError


class TokenStream:
    """The memory-mapped tokens of one split, shard after shard."""

    def __init__(self, name: str, shards: Sequence[NDArray[np.uint16] | NDArray[np.uint32]]) -> None:
        self.name = name
        # A plain view of the map: slicing np.memmap itself costs microseconds of Python each time.
        self._shards = [np.asarray(shard) for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)
        self._first_end = int(self._ends[0]) if len(self._shards) else 0

    @classmethod
    def open(cls, folder: Path, manifest: DatasetManifest, split: str) -> "TokenStream":
        """Map the shards of ``split``; their sizes and headers are checked, their content is not read.

        Raises `DataError` for a damaged shard.
        """
        entries, fingerprint = manifest.split(split).shards, manifest.tokenizer.fingerprint
        return cls(f"{folder}/{split}", [open_shard(folder, entry, manifest.dtype, fingerprint) for entry in entries])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._shards) else 0

    def gather(self, starts: NDArray[np.int64], out: NDArray[np.int64]) -> None:
        """Copy ``out.shape[1]`` tokens from each of ``starts`` (n,) into the rows of ``out`` (n, T)."""
        length = out.shape[1]
        first = self._shards[0]
        for row, start in zip(out, starts.tolist(), strict=True):
            if start + length <= self._first_end:
                row[:] = first[start : start + length]
            else:
                self._copy(start, row)

    def _copy(self, start: int, row: NDArray[np.int64]) -> None:
        number = int(np.searchsorted(self._ends, start, side="right"))
        done = 0
        while done < len(row):
            shard = self._shards[number]
            begin = start + done - (int(self._ends[number]) - len(shard))
            part = shard[begin : begin + len(row) - done]
            row[done : done + len(part)] = part
            done += len(part)
            number += 1

    def check(self, tokens: NDArray[np.int64], vocab_size: int) -> None:
        """Raise `DataError` if gathered ``tokens`` hold an id that the model has no row for."""
        highest = int(tokens.max(initial=0))
        if highest >= vocab_size:
            raise DataError(
                f"{self.name} holds token {highest}, but the vocabulary ends at {vocab_size - 1}: "
                f"the shard is damaged, see: mypt data verify"
            )


def require_window(stream: TokenStream, context: int) -> None:
    """Raise `ConfigError` if not even one window fits."""
    if len(stream) <= context:
        raise ConfigError(
            f"{stream.name} has {len(stream):,} tokens, one window needs model.context + 1 = {context + 1:,}: "
            "prepare more text or lower model.context"
        )
