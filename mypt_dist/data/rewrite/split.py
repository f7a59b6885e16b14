"""One dataset as several: with more held out, or in parts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from mypt_dist.data.entries import Settings
from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import SPLITS, Counts, DatasetManifest, Splits
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.rewrite.blocks import Block, dataset_blocks
from mypt_dist.data.rewrite.documents import Documents, document_hashes, routed
from mypt_dist.data.rewrite.draft import Draft, apart, draft, require_no_rows
from mypt_dist.errors import ConfigError

MAX_PARTS = 256
"""Each part keeps a few files open while it is written."""


def hold_out(
    folder: Path, out: Path, val_fraction: float, *, overwrite: bool = False, progress: Progress | None = None
) -> DatasetManifest:
    """Write the dataset in ``folder`` to ``out`` with a share of its training documents moved to validation.

    Which ones is decided by a hash of their tokens alone. What is held out already stays held out. Raises
    `ConfigError` where that leaves no training documents or none to validate on, `DataError` for damage.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(f"--val-fraction must be above 0 and below 1, got {val_fraction:g}")
    manifest = DatasetManifest.read(folder)
    require_no_rows(folder, manifest, "split")
    apart(out, folder)
    # The training split is read twice, the second time one document behind: hashed first, then written.
    done = BytesDone(2 * manifest.bytes_of("train") + manifest.bytes_of("val"), progress)

    def blocks(split: str) -> Iterator[Block]:
        return dataset_blocks(folder, manifest, split, done)

    with draft(out, manifest.load_tokenizer(), manifest.companions, overwrite=overwrite) as new:
        for block in blocks("val"):
            new.append("val", block)
        limit = int(val_fraction * 2**64)
        hashes = document_hashes(blocks("train"), manifest.eot_id)
        fates = ("val" if found < limit else "train" for found in hashes)
        for split, piece in routed(blocks("train"), manifest.eot_id, fates):
            new.append(split, piece)

        def describe(splits: Splits) -> DatasetManifest:
            for name in SPLITS:
                if not getattr(splits, name).tokens:
                    raise ConfigError(
                        f"the hash of {manifest.splits.train.documents:,} documents leaves none for {name}: "
                        "choose another --val-fraction"
                    )
            return _described(folder, manifest, {"val_fraction": val_fraction}, splits)

        return new.publish(describe)


def cut_in_parts(
    folder: Path, out: Path, parts: int, *, overwrite: bool = False, progress: Progress | None = None
) -> list[DatasetManifest]:
    """Write the dataset in ``folder`` as ``out``/part-000, part-001, … of about as many tokens each.

    Documents stay whole and in order: the parts, merged, are the dataset again. Raises `ConfigError` where there are
    too few documents, `DataError` for damage.
    """
    if not 2 <= parts <= MAX_PARTS:
        raise ConfigError(f"--parts must be 2 to {MAX_PARTS}, got {parts}")
    manifest = DatasetManifest.read(folder)
    require_no_rows(folder, manifest, "split")
    apart(out, folder)
    done = BytesDone(manifest.bytes_of(*SPLITS), progress)
    tokenizer = manifest.load_tokenizer()
    with _removed_if_empty(out), ExitStack() as stack:
        places = [out / f"part-{number:03d}" for number in range(parts)]
        drafts = [
            stack.enter_context(draft(place, tokenizer, manifest.companions, overwrite=overwrite)) for place in places
        ]
        for split in SPLITS:
            _deal_out(split, dataset_blocks(folder, manifest, split, done), drafts, manifest)
        # All, before the first is published.
        if not all(new.tokens for new in drafts):
            raise ConfigError(f"{folder} has too few documents to be cut in {parts} parts")
        return [
            new.publish(partial(_described, folder, manifest, {"part": number, "parts": parts}))
            for number, new in enumerate(drafts)
        ]


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    is_new = not folder.exists()
    try:
        yield
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _deal_out(split: str, blocks: Iterator[Block], drafts: Sequence[Draft], manifest: DatasetManifest) -> None:
    """Go on with the next draft at the first end of a document behind its share of the tokens."""
    total, documents = manifest.split(split).tokens, Documents(manifest.eot_id)
    before = number = 0
    for block in blocks:
        begin = 0
        for _, end, is_end in documents.spans(block):
            if is_end and (before + end) * len(drafts) >= total * (number + 1) and number < len(drafts) - 1:
                drafts[number].append(split, block[begin:end])
                begin = end
                number = min(len(drafts) - 1, (before + end) * len(drafts) // total)
        drafts[number].append(split, block[begin:])
        before += len(block)


def _described(folder: Path, parent: DatasetManifest, settings: Settings, splits: Splits) -> DatasetManifest:
    counts = Counts(files=1, documents=splits.train.documents + splits.val.documents)
    plain = DatasetManifest.create(parent.load_tokenizer(), splits, (), counts, settings)
    return plain.with_origin(made("split", [(folder, parent)]))
