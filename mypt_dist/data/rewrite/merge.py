"""Several datasets as one: the tokens of the first, then those of the second, and so on, in each split."""

from collections.abc import Sequence
from pathlib import Path

from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import SPLITS, Counts, DatasetManifest, Splits
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.rewrite.blocks import dataset_blocks
from mypt_dist.data.rewrite.draft import SHARD_TOKENS, apart, draft, require_no_rows
from mypt_dist.errors import ConfigError


def merge(
    folders: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> DatasetManifest:
    """Write the datasets in ``folders`` to ``out`` as one; they stay as they are.

    Raises `ConfigError` for datasets that do not fit together, `DataError` for damage and where the disk refuses.
    """
    manifests = [DatasetManifest.read(folder) for folder in folders]
    _fit_together(folders, manifests)
    for folder, manifest in zip(folders, manifests, strict=True):
        require_no_rows(folder, manifest, "merged")
    apart(out, *folders)
    first = manifests[0]
    tokenizer = first.load_tokenizer()
    done = BytesDone(sum(manifest.bytes_of(*SPLITS) for manifest in manifests), progress)
    with draft(out, tokenizer, first.companions, overwrite=overwrite, shard_tokens=shard_tokens) as new:
        for split in SPLITS:
            for folder, manifest in zip(folders, manifests, strict=True):
                for block in dataset_blocks(folder, manifest, split, done):
                    new.append(split, block)

        def describe(splits: Splits) -> DatasetManifest:
            counts = Counts(files=len(folders), documents=splits.train.documents + splits.val.documents)
            plain = DatasetManifest.create(tokenizer, splits, (), counts, {"shard_tokens": shard_tokens})
            return plain.with_origin(made("merge", zip(folders, manifests, strict=True)))

        return new.publish(describe)


def _fit_together(folders: Sequence[Path], manifests: Sequence[DatasetManifest]) -> None:
    if len(folders) < 2:
        raise ConfigError("there is nothing to merge: give two datasets or more")
    first = manifests[0]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        if manifest.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise ConfigError(
                f"{folder} has another tokenizer ({manifest.tokenizer.kind}, {manifest.tokenizer.fingerprint[:12]}) "
                f"than {folders[0]} ({first.tokenizer.kind}, {first.tokenizer.fingerprint[:12]}): prepare them alike"
            )
        if set(manifest.companions) != set(first.companions):
            raise ConfigError(
                f"{folder} has {' and '.join(manifest.companions) or 'nothing'} beside its tokens, {folders[0]} has "
                f"{' and '.join(first.companions) or 'nothing'}: only datasets of one kind can be merged"
            )
