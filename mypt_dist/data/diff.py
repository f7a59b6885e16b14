"""How do two datasets differ?"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.manifest import SPLITS, DatasetManifest, ShardEntry
from mypt_dist.data.shards import open_shard, read_tokens

CONTEXT = 12
"""Tokens shown before and after the first that differs."""


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """Where the tokens of a split first differ."""

    split: str
    position: int
    """Token of the split, from 0."""
    left: str
    """Text around it; empty where the split has ended."""
    right: str
    left_id: int | None
    right_id: int | None


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """Everything that differs between two datasets: (left, right)."""

    fingerprint: tuple[str, str]
    facts: Mapping[str, tuple[Any, Any]]
    """Settings, tokenizer and counts, by dotted key."""
    shards: Mapping[str, tuple[int, int, int]]
    """Of each split: shards of the left, of the right, and how many are the same."""
    tokens: tuple[FirstDifference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether a run would read the same."""
        return self.fingerprint[0] == self.fingerprint[1]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"equal": self.is_equal, **asdict(self)}


def diff_datasets(left: Path, right: Path) -> DatasetDiff:
    """Compare the datasets in two folders; tokens are read only where their shards differ.

    Raises `ConfigError` where there is no dataset, `DataError` for a shard that cannot be read.
    """
    a, b = DatasetManifest.read(left), DatasetManifest.read(right)
    facts, others = _facts(a), _facts(b)
    different = {
        key: (facts.get(key), others.get(key))
        for key in (*facts, *(key for key in others if key not in facts))
        if facts.get(key) != others.get(key)
    }
    shards, first = {}, []
    for split in SPLITS:
        ours, theirs = a.split(split).shards, b.split(split).shards
        same = {shard.sha256 for shard in ours} & {shard.sha256 for shard in theirs}
        shards[split] = (len(ours), len(theirs), len(same))
        found = _first_difference((left, a), (right, b), split)
        first += [found] if found else []
    return DatasetDiff((a.fingerprint, b.fingerprint), different, shards, tuple(first))


def _facts(manifest: DatasetManifest) -> dict[str, Any]:
    facts = {
        "tokenizer.kind": manifest.tokenizer.kind,
        "tokenizer.fingerprint": manifest.tokenizer.fingerprint,
        "vocab_size": manifest.vocab_size,
        "eot_id": manifest.eot_id,
        "dtype": manifest.dtype,
        "in_place": manifest.in_place,
        "companions": ", ".join(manifest.companions),
        "row_length": manifest.row_length,
        **{f"settings.{key}": value for key, value in manifest.settings.items()},
    }
    for split in SPLITS:
        entry = manifest.split(split)
        facts |= {f"{split}.documents": entry.documents, f"{split}.tokens": entry.tokens, f"{split}.bytes": entry.bytes}
    return facts


def _first_difference(
    left: tuple[Path, DatasetManifest], right: tuple[Path, DatasetManifest], split: str
) -> FirstDifference | None:
    ours, theirs = left[1].split(split).shards, right[1].split(split).shards
    both_ours = left[1].in_place is right[1].in_place is None
    pairs = takewhile(lambda pair: both_ours and pair[0].sha256 == pair[1].sha256, zip(ours, theirs, strict=False))
    same = len(list(pairs))
    position = sum(shard.tokens for shard in ours[:same])
    found = _first_unequal(_tokens(*left, ours[same:]), _tokens(*right, theirs[same:]))
    if found is None:
        return None
    position += found
    (left_text, left_id), (right_text, right_id) = (_around(*side, split, position) for side in (left, right))
    return FirstDifference(split, position, left_text, right_text, left_id, right_id)


def _first_unequal(left: Iterator[NDArray[Any]], right: Iterator[NDArray[Any]]) -> int | None:
    """Position of the first token that differs, or that only one of both has."""
    nothing = np.empty(0, np.uint16)
    a = b = nothing
    position = 0
    while True:
        a = a if len(a) else next(left, nothing)
        b = b if len(b) else next(right, nothing)
        count = min(len(a), len(b))
        if not count:
            return position if len(a) != len(b) else None
        unequal = np.flatnonzero(a[:count] != b[:count])
        if len(unequal):
            return position + int(unequal[0])
        a, b, position = a[count:], b[count:], position + count


def _tokens(folder: Path, manifest: DatasetManifest, shards: tuple[ShardEntry, ...]) -> Iterator[NDArray[Any]]:
    for shard in shards:
        open_shard(folder, shard, manifest.dtype, manifest.tokenizer.fingerprint)
        yield from read_tokens(folder, shard, manifest.dtype)


def _around(folder: Path, manifest: DatasetManifest, split: str, position: int) -> tuple[str, int | None]:
    """Text around a token of a split, and the token itself."""
    begin, ids, own = max(0, position - CONTEXT), list[int](), None
    for shard in manifest.split(split).shards:
        if begin < shard.tokens and position - begin + CONTEXT > len(ids):
            tokens = open_shard(folder, shard, manifest.dtype)
            if 0 <= position < shard.tokens:
                own = int(tokens[position])
            ids += tokens[max(0, begin) : max(0, position + CONTEXT)].tolist()
        begin, position = begin - shard.tokens, position - shard.tokens
    return manifest.load_tokenizer().decode(ids[: 2 * CONTEXT]), own
