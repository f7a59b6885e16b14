"""What does a dataset look like? Its manifest, some decoded text, and how long its documents are."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mypt_dist.data.lengths import LengthCounter, Lengths
from mypt_dist.data.manifest import SPLITS, DatasetManifest
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
        counter = LengthCounter(manifest.eot_id)
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
