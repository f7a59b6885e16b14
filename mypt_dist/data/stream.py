"""A split of a dataset as one long row of tokens, whatever the shards it is cut into."""

import logging
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.blocks import BLOCK_BITS, BLOCK_BYTES
from mypt_dist.data.companions import Companion
from mypt_dist.data.files import PatientFiles
from mypt_dist.data.manifest import DatasetManifest, ShardEntry, companion_shards
from mypt_dist.data.shard_tokens import ArrayTokens, Reader, ShardTokens
from mypt_dist.data.shards import open_companion, open_shard
from mypt_dist.errors import ConfigError, DataError

log = logging.getLogger(__name__)

OnDamage: TypeAlias = Literal["fail", "skip"]
FILLER = 0
"""The token that stands in a window which is skipped: an id of every vocabulary."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How shards are read, and what a damaged block means."""

    reader: Reader = "memmap"
    on_damage: OnDamage = "fail"
    source: str = "main"
    """What the run calls the dataset, for the names of damaged blocks."""


class TokenStream:
    """The tokens of one split, shard after shard, and what stands beside them. For one thread at a time."""

    def __init__(
        self,
        name: str,
        shards: Sequence[ShardTokens | NDArray[Any]],
        reading: Reading | None = None,
        *,
        beside: "Mapping[Companion, TokenStream] | None" = None,
        row_length: int | None = None,
    ) -> None:
        """``beside``: streams of one value for each token. ``row_length``: of rows that are samples; None: no rows."""
        self.name = name
        self.beside: Mapping[Companion, TokenStream] = beside or {}
        self.row_length = row_length
        self._reading = reading or Reading()
        self._shards = [s if isinstance(s, ShardTokens) else ArrayTokens(s) for s in shards]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64).tolist()
        self._first_end: int = self._ends[0] if self._shards else 0

    @classmethod
    def open(cls, folder: Path, manifest: DatasetManifest, split: str, reading: Reading | None = None) -> "TokenStream":
        """Open the shards of ``split``; their sizes and headers are checked, their content when it is first read.

        Raises `DataError` for a damaged shard.
        """
        reading, files = reading or Reading(), PatientFiles()
        entries, fingerprint = manifest.split(split).shards, manifest.tokenizer.fingerprint
        if any(entry.crc32 is None for entry in entries):
            log.info("%s: prepared without checksums of blocks; only mypt data verify finds damage in it", folder)

        def opened(view: NDArray[Any], entry: ShardEntry) -> ShardTokens:
            return ShardTokens(view, folder / entry.file, entry, files, reading.reader)

        name = f"{folder}/{split}"
        beside: dict[Companion, TokenStream] = {
            kind: cls(
                f"{name} ({kind})",
                [opened(open_companion(folder, entry, kind), entry) for entry in companion_shards(entries, kind)],
                reading,
            )
            for kind in manifest.companions
        }
        shards = [opened(open_shard(folder, entry, manifest.dtype, fingerprint), entry) for entry in entries]
        return cls(name, shards, reading, beside=beside, row_length=manifest.row_length)

    def __len__(self) -> int:
        return self._ends[-1] if self._shards else 0

    def gather(
        self, starts: Sequence[int], out: NDArray[Any], rows: Iterable[int] | None = None
    ) -> dict[int, list[str]]:
        """Copy ``out.shape[1]`` tokens from each of ``starts`` into rows of ``out`` (n, T): ``rows``, or all in turn.

        What stands beside them is not looked at. Returns the rows that hold `FILLER` instead because they touch damaged
        blocks, and those blocks, as ``source:file:block``. Raises `DataError`, also for a damaged block unless such are
        skipped.
        """
        length = out.shape[1]
        if not len(starts):
            return {}
        first, first_end, skipped = self._shards[0], self._first_end, dict[int, list[str]]()
        view, state, width, before, settled = first.view, first.state, first.width, first.begin, first.settled
        if view is None or length * width > BLOCK_BYTES:
            # Read, not mapped; or so long that a block between the first and the last is to be looked at, too.
            first_end = -1
        for number, start in zip(range(len(starts)) if rows is None else rows, starts, strict=True):
            end = start + length
            if end <= first_end and (
                settled
                or not (
                    state[(before + start * width) >> BLOCK_BITS] or state[(before - 1 + end * width) >> BLOCK_BITS]
                )
            ):
                out[number] = view[start:end]  # type: ignore[index]  # first_end says so
            elif blocks := self._copy(start, out[number]):
                out[number] = FILLER
                skipped[number] = blocks
        return skipped

    def blocks(self) -> int:
        """Blocks of all shards."""
        return sum(len(shard.state) for shard in self._shards) + sum(s.blocks() for s in self.beside.values())

    def mark_damaged(self, blocks: Iterable[str]) -> None:
        """Treat ``blocks``, as `gather` names them, as damaged without a look: a run skips the same after a repair."""
        blocks = list(blocks)
        for stream in self.beside.values():
            stream.mark_damaged(blocks)
        shards = {shard.entry.file: shard for shard in self._shards if isinstance(shard, ShardTokens)}
        for name, _, number in (block.rpartition(":") for block in blocks):
            source, _, file = name.partition(":")
            if source == self._reading.source and file in shards and number.isdecimal():
                shards[file].mark_damaged(int(number))

    def _copy(self, start: int, row: NDArray[Any]) -> list[str]:
        """Copy a window from one shard or several; the damaged blocks for which it is not worth it."""
        number, done = bisect_right(self._ends, start), 0
        while done < len(row):
            shard = self._shards[number]
            begin = start + done - (self._ends[number] - len(shard))
            end = min(len(shard), begin + len(row) - done)
            if damaged := shard.damaged(begin, end):
                assert isinstance(shard, ShardTokens), "what is in memory is right"
                if self._reading.on_damage == "fail":
                    raise DataError(shard.complaint(damaged[0]))
                return [f"{self._reading.source}:{shard.entry.file}:{block}" for block in damaged]
            row[done : done + end - begin] = shard.read(begin, end)
            done += end - begin
            number += 1
        return []

    def check(self, tokens: NDArray[np.int64], vocab_size: int) -> None:
        """Raise `DataError` if gathered ``tokens`` hold an id that the model has no row for."""
        highest = int(tokens.max(initial=0))
        if highest >= vocab_size:
            raise DataError(
                f"{self.name} holds token {highest}, but the vocabulary ends at {vocab_size - 1}: "
                f"the shard is damaged, see: mypt data verify"
            )


def require_window(stream: TokenStream, context: int) -> None:
    """Raise `ConfigError` if not even one window fits, or if windows are not the rows that there are."""
    if stream.row_length not in (None, context + 1):
        raise ConfigError(
            f"{stream.name} was packed in rows for a context of {stream.row_length - 1:,}, model.context is "
            f"{context:,}: set model.context={stream.row_length - 1}, or pack the conversations again with --context "
            f"{context}"
        )
    if len(stream) <= context:
        raise ConfigError(
            f"{stream.name} has {len(stream):,} tokens, one window needs model.context + 1 = {context + 1:,}: "
            "prepare more text or lower model.context"
        )
