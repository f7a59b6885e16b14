"""What does a dataset look like? Its manifest, some decoded text, and how long its documents are."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.shards import open_shard, read_tokens

_EXACT = 2048
"""Document lengths below this are counted one by one, longer ones in classes less than 0.1 % wide."""
_HALF = _EXACT // 2
_CLASSES = _EXACT + _HALF * 52


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the documents of a split, end of text not counted. Above 2,048, percentiles are 0.1 % exact."""

    documents: int
    min: int
    p10: int
    median: int
    p90: int
    max: int
    histogram: tuple[tuple[int, int], ...]
    """(n, documents of fewer than n tokens, and at least n // 2), n a power of two."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What `inspect_dataset` found."""

    manifest: DatasetManifest
    sample: str
    """Decoded text from the beginning of the training split, or of the other if that is empty."""
    lengths: dict[str, Lengths]
    """By split; a split without documents is left out."""

    def length_rows(self) -> list[tuple[str, tuple[int, ...]]]:
        """For each split: documents, min, 10th percentile, median, 90th percentile, max."""
        return [
            (name, (found.documents, found.min, found.p10, found.median, found.p90, found.max))
            for name, found in self.lengths.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "manifest": self.manifest.model_dump(mode="json"),
            "sample": self.sample,
            "lengths": {name: asdict(found) for name, found in self.lengths.items()},
        }


def inspect_dataset(folder: Path, sample_tokens: int = 200) -> DatasetReport:
    """Read a dataset once, in bounded memory.

    Raises `ConfigError` where there is no dataset, `DataError` where a shard is not what the manifest says.
    """
    manifest = DatasetManifest.read(folder)
    lengths = {}
    for name in SPLITS:
        counter = _LengthCounter(manifest.eot_id)
        for tokens in _blocks(folder, manifest, name):
            counter.add(tokens)
        if counter.documents:
            lengths[name] = counter.summary()
    return DatasetReport(manifest, _sample(folder, manifest, sample_tokens), lengths)


def _sample(folder: Path, manifest: DatasetManifest, count: int) -> str:
    shards = [shard for name in SPLITS for shard in manifest.split(name).shards]
    if not shards or count < 1:
        return ""
    tokens = open_shard(folder, shards[0], manifest.dtype, manifest.tokenizer.fingerprint)
    return manifest.load_tokenizer().decode(tokens[:count].tolist())


def _blocks(folder: Path, manifest: DatasetManifest, split: str) -> Iterator[NDArray[Any]]:
    for entry in manifest.split(split).shards:
        open_shard(folder, entry, manifest.dtype, manifest.tokenizer.fingerprint)
        yield from read_tokens(folder, entry, manifest.dtype)


class _LengthCounter:
    """Counts document lengths in classes, so that memory does not depend on the number of documents."""

    def __init__(self, eot_id: int) -> None:
        self._eot_id = eot_id
        self._counts = np.zeros(_CLASSES, np.int64)
        self._unfinished = 0
        self._min, self._max = 1 << 62, 0
        self.documents = 0

    def add(self, tokens: NDArray[Any]) -> None:
        ends = np.flatnonzero(tokens == self._eot_id)
        if not len(ends):
            self._unfinished += len(tokens)
            return
        lengths = np.diff(ends, prepend=-1) - 1
        lengths[0] += self._unfinished
        self._unfinished = len(tokens) - 1 - int(ends[-1])
        self._counts += np.bincount(_class_of(lengths), minlength=_CLASSES)
        self._min, self._max = min(self._min, int(lengths.min())), max(self._max, int(lengths.max()))
        self.documents += len(lengths)

    def summary(self) -> Lengths:
        below = np.cumsum(self._counts)
        p10, median, p90 = (self._percentile(below, share) for share in (0.1, 0.5, 0.9))
        return Lengths(self.documents, self._min, p10, median, p90, self._max, self._histogram())

    def _percentile(self, below: NDArray[np.int64], share: float) -> int:
        """The smallest length that at least ``share`` of the documents do not exceed."""
        found = int(np.searchsorted(below, max(1, int(np.ceil(share * self.documents)))))
        return max(self._min, min(self._max, int(_least_of(np.array([found]))[0])))

    def _histogram(self) -> tuple[tuple[int, int], ...]:
        used = np.flatnonzero(self._counts)
        rows: dict[int, int] = {}
        for least, count in zip(_least_of(used).tolist(), self._counts[used].tolist(), strict=True):
            bound = 1 << least.bit_length()
            rows[bound] = rows.get(bound, 0) + count
        return tuple(rows.items())


def _class_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    shift = np.maximum(np.frexp(lengths.astype(np.float64))[1].astype(np.int64) - _EXACT.bit_length() + 1, 0)
    classes: NDArray[np.int64] = shift * _HALF + (lengths >> shift)
    return classes


def _least_of(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest length of each class: the inverse of `_class_of`."""
    shift = np.maximum(classes // _HALF - 1, 0)
    least: NDArray[np.int64] = (classes - shift * _HALF) << shift
    return least
