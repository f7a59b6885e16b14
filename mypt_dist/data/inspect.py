"""What does a dataset look like? Its manifest, some decoded text, and how long its documents are."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.lengths import LengthCounter, Lengths
from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.progress import BytesDone
from mypt_dist.data.rewrite.blocks import dataset_blocks, without_padding
from mypt_dist.data.rewrite.documents import Documents
from mypt_dist.data.shards import open_shard, read_tokens


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
        is_segmented = "segments" in manifest.companions
        counter = (_by_segments if is_segmented else _by_ends)(folder, manifest, name)
        if counter.documents:
            lengths[name] = counter.summary()
    return DatasetReport(manifest, _sample(folder, manifest, sample_tokens), lengths)


def _sample(folder: Path, manifest: DatasetManifest, count: int) -> str:
    shards = [shard for name in SPLITS for shard in manifest.split(name).shards]
    if not shards or count < 1:
        return ""
    tokens = open_shard(folder, shards[0], manifest.dtype, manifest.tokenizer.fingerprint)
    return manifest.load_tokenizer().decode(tokens[:count].tolist())


def _by_ends(folder: Path, manifest: DatasetManifest, split: str) -> LengthCounter:
    counter = LengthCounter(manifest.eot_id)
    for tokens in _blocks(folder, manifest, split):
        counter.add(tokens)
    return counter


def _by_segments(folder: Path, manifest: DatasetManifest, split: str) -> LengthCounter:
    counter, documents = LengthCounter(manifest.eot_id), Documents(manifest.eot_id)
    for block in map(without_padding, dataset_blocks(folder, manifest, split, BytesDone(0))):
        if len(block):
            counter.add_ends(len(block), documents.ends(block), ending=0)
    if manifest.split(split).tokens:
        # Nothing stands behind the last document that would end it.
        counter.add_ends(0, np.zeros(1, np.int64))
    return counter


def _blocks(folder: Path, manifest: DatasetManifest, split: str) -> Iterator[NDArray[Any]]:
    for entry in manifest.split(split).shards:
        open_shard(folder, entry, manifest.dtype, manifest.tokenizer.fingerprint)
        yield from read_tokens(folder, entry, manifest.dtype)
