"""What is in a dataset, in numbers: documents, their lengths, and which tokens are frequent."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.lengths import LengthCounter, Lengths
from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.rewrite.blocks import dataset_blocks, without_padding
from mypt_dist.data.rewrite.documents import Documents


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How often a token stands in a dataset."""

    id: int
    text: str
    """What it decodes to; half a character as U+FFFD."""
    count: int


@dataclass(frozen=True, slots=True)
class SplitStats:
    """One split."""

    documents: int
    tokens: int
    bytes: int
    learned: int
    """Tokens that are learned as targets: all, unless there is a mask."""
    lengths: Lengths | None
    """Of documents; none where no document ends."""


@dataclass(frozen=True, slots=True)
class DatasetStats:
    """Both splits."""

    fingerprint: str
    vocab_size: int
    distinct: int
    """Different tokens that stand in it."""
    splits: dict[str, SplitStats]
    frequent: tuple[TokenCount, ...]
    """The most frequent first."""

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def dataset_stats(folder: Path, frequent: int = 20, progress: Progress | None = None) -> DatasetStats:
    """Read every token of the dataset in ``folder``, in bounded memory.

    Raises `ConfigError` where there is no dataset, `DataError` for damage.
    """
    manifest = DatasetManifest.read(folder)
    counts = np.zeros(manifest.vocab_size, np.int64)
    done = BytesDone(manifest.bytes_of(*SPLITS), progress)
    splits = {name: _split_stats(folder, manifest, name, counts, done) for name in SPLITS}
    order = np.argsort(-counts, kind="stable")[: max(0, frequent)]
    tokenizer = manifest.load_tokenizer()
    return DatasetStats(
        manifest.fingerprint,
        manifest.vocab_size,
        int(np.count_nonzero(counts)),
        splits,
        tuple(
            TokenCount(token, tokenizer.decode([token]), int(counts[token]))
            for token in order.tolist()
            if counts[token]
        ),
    )


def _split_stats(
    folder: Path, manifest: DatasetManifest, name: str, counts: NDArray[np.int64], done: BytesDone
) -> SplitStats:
    """Adds to ``counts`` (vocabulary,)."""
    documents, lengths, learned = Documents(manifest.eot_id), LengthCounter(manifest.eot_id), 0
    is_segmented = "segments" in manifest.companions
    for block in dataset_blocks(folder, manifest, name, done):
        counts += np.bincount(block.tokens, minlength=len(counts))
        text = without_padding(block)
        if len(text):
            lengths.add_ends(len(text), documents.ends(text), ending=0 if is_segmented else 1)
        learned += int(np.count_nonzero(block.companions.get("mask", block.tokens[:0])))
    entry = manifest.split(name)
    if is_segmented and entry.tokens:
        # Nothing stands behind the last document that would end it.
        lengths.add_ends(0, np.zeros(1, np.int64))
    return SplitStats(
        entry.documents,
        entry.tokens,
        entry.bytes,
        learned if "mask" in manifest.companions else entry.tokens,
        lengths.summary() if lengths.documents else None,
    )
