"""More text for a dataset: new shards behind the old ones, which stay as they are.

The dataset gets a new fingerprint. What it was before is kept as a version of its own, so that a run that was trained
on it can go on with exactly that.
"""

from collections.abc import Sequence
from pathlib import Path

from mypt_dist.data.durable import sync_folder, write_new
from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import FILE, SPLITS, DatasetManifest, ShardEntry, SplitEntry, Splits, shard_name
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.data.prepare.staging import staged
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.progress import Progress
from mypt_dist.data.versions import VERSIONS, version_folder, write_version
from mypt_dist.errors import ConfigError


def append(
    folder: Path, inputs: Sequence[str | Path], settings: PrepareSettings, progress: Progress | None = None
) -> DatasetManifest:
    """Prepare ``inputs`` with the tokenizer of the dataset in ``folder`` and add them to it.

    Until the last moment ``folder`` holds the dataset that it held, and then the longer one. Raises as `prepare`.
    """
    before = DatasetManifest.read(folder)
    _can_grow(folder, before)
    tokenizer = before.load_tokenizer()
    with staged(folder, overwrite=True) as staging:
        # Again, now that nobody else can append.
        before = DatasetManifest.read(folder)
        addition = staging / "addition"
        new = prepare(inputs, addition, settings, progress, tokenizer).manifest
        splits = Splits(
            train=_longer(before.splits.train, new.splits.train, "train"),
            val=_longer(before.splits.val, new.splits.val, "val"),
        )
        plain = DatasetManifest.create(tokenizer, splits, new.sources, new.counts, new.settings)
        kept = version_folder(folder, before.fingerprint)
        after = plain.with_origin(made("append", [(kept.relative_to(folder), before)]))
        with writing(folder):
            _keep(folder, staging, before)
            for split in SPLITS:
                _move_shards(folder, addition, split, (before.split(split), after.split(split)))
            write_new(staging / FILE, after.to_bytes())
            (staging / FILE).replace(folder / FILE)
            sync_folder(folder)
    return after


def settings_of(folder: Path) -> PrepareSettings:
    """Those the dataset in ``folder`` was prepared with; what is not known of it is as by default."""
    known = DatasetManifest.read(folder).settings
    chosen = {key: value for key, value in known.items() if key in PrepareSettings().content()}
    return PrepareSettings.model_validate(chosen)


def _can_grow(folder: Path, manifest: DatasetManifest) -> None:
    reason = None
    if manifest.in_place:
        reason = f"it was written by another program ({manifest.in_place}): mypt data convert it first"
    elif manifest.companions:
        reason = f"text has no {' and no '.join(manifest.companions)}, which stand beside the tokens there"
    elif folder.resolve().parent.name == VERSIONS:
        reason = "it is the earlier version of a dataset, which stays as it is"
    if reason:
        raise ConfigError(f"nothing can be appended to {folder}: {reason}")


def _longer(old: SplitEntry, new: SplitEntry, name: str) -> SplitEntry:
    moved = (
        shard.model_copy(update={"file": shard_name(name, number)})
        for number, shard in enumerate(new.shards, len(old.shards))
    )
    return SplitEntry(
        tokens=old.tokens + new.tokens,
        documents=old.documents + new.documents,
        bytes=old.bytes + new.bytes,
        shards=(*old.shards, *moved),
    )


def _keep(folder: Path, staging: Path, manifest: DatasetManifest) -> None:
    """Make the dataset as it is one of its own versions."""
    kept = version_folder(folder, manifest.fingerprint)
    if kept.exists():
        return
    aside = staging / "version"
    write_version(aside, manifest)
    sync_folder(aside)
    kept.parent.mkdir(exist_ok=True)
    aside.rename(kept)
    sync_folder(kept.parent)


def _move_shards(folder: Path, addition: Path, split: str, entries: tuple[SplitEntry, SplitEntry]) -> None:
    """New shards to their places, which are free but for what a killed append left there."""
    before, after = entries
    old = {shard.file for shard in before.shards}
    for path in (folder / split).glob("shard-*.bin"):
        if f"{split}/{path.name}" not in old:
            path.unlink()
    new: list[ShardEntry] = [shard for shard in after.shards if shard.file not in old]
    for number, shard in enumerate(new):
        (addition / shard_name(split, number)).rename(folder / shard.file)
    sync_folder(folder / split)
