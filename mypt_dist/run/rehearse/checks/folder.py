"""Can the run's folder take this run: may it be written, is it free, is there room, whose checkpoints are there?"""

from collections.abc import Iterator
from typing import Any

from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.findings import Finding
from mypt_dist.run.resume import changed_content, changed_settings, completed, is_allowed, is_fixed

BASE_FILES = 64
"""Libraries, pipes and logs of one rank."""
FILES_FOR_EACH_PEER = 4
"""Connections of a rank with each other one: two groups, two ends."""


def folder_writable(case: Case) -> Iterator[Finding]:
    """A run's folder that cannot be written."""
    if case.around.unwritable:
        yield Finding(
            "out",
            f"{case.config.folder}: {case.around.unwritable}",
            "the run is refused at its start, on the cluster",
            "out=FOLDER on a disk that all nodes share and this user may write",
        )


def folder_locked(case: Case) -> Iterator[Finding]:
    """A run's folder in which another run trains."""
    if case.around.lock_holder:
        yield Finding(
            "out",
            f"{case.config.folder} is in use by {case.around.lock_holder}",
            "two runs in one folder would mix their checkpoints, so the second is refused",
            "stop that run, or out=ANOTHER FOLDER",
        )


def other_model(case: Case) -> Iterator[Finding]:
    """Checkpoints of another model in the run's folder."""
    different = {key: both for key, both in _refused(case).items() if key == "model" or key.startswith("model.")}
    if different and case.around.standing:
        yield Finding(
            "out",
            f"{case.config.folder} holds step {case.around.standing.step} of another model: {_told(different)}",
            "its weights do not fit: the run is refused",
            "out=ANOTHER FOLDER, or the model of the checkpoint",
        )


def changed_on_resume(case: Case) -> Iterator[Finding]:
    """Settings that make another run than the one whose checkpoints are in the folder."""
    for key, (before, now) in _refused(case).items():
        if not key.startswith("model."):
            yield Finding(
                key,
                f"{before!r} in the checkpoint of step {_step(case)}, {now!r} here",
                "a run that goes on with it is another run, so it is refused",
                f"restore it, out=ANOTHER FOLDER, or --allow-change {key}",
            )


def disk_space(case: Case) -> Iterator[Finding]:
    """A disk that is too small for the checkpoints that are kept."""
    size, free = case.around.checkpoint_bytes, case.around.free_bytes
    if size is None or free is None:
        return
    count = _kept(case) + 1
    have = case.around.standing.bytes if case.around.standing else 0
    need = count * size - have
    if need > free:
        yield Finding(
            "checkpoints",
            f"{count} checkpoints of {size / 2**30:,.2f} GiB (one of them being written), {free / 2**30:,.2f} GiB free "
            f"at {case.config.folder}",
            "the disk is full in the middle of the run, and from then on nothing is saved",
            "a larger disk (out=…), checkpoints.keep_last=1, or a larger checkpoints.keep_every",
        )


def open_files(case: Case) -> Iterator[Finding]:
    """A limit of open files (`ulimit -n`) below what a rank needs."""
    limit = case.around.open_files
    if limit is None:
        return
    manifests = [source.manifest for source in case.around.sources.values() if source.manifest]
    shards = sum(len(m.splits.train.shards) + len(m.splits.val.shards) for m in manifests)
    files = case.around.standing.files if case.around.standing else 0
    need = BASE_FILES + shards + files + FILES_FOR_EACH_PEER * case.ranks
    if need > limit:
        yield Finding(
            "ulimit -n",
            f"{limit:,} open files allowed, a rank needs about {need:,}: {shards:,} shards, {case.ranks:,} ranks, "
            f"{files:,} files of a checkpoint",
            "a rank fails with 'too many open files' while it connects, reads or resumes",
            f"ulimit -n {max(4096, 2 * need)} in the job script, or larger shards",
        )


def _kept(case: Case) -> int:
    """Checkpoints that lie there at the end."""
    rules, train = case.config.checkpoints, case.config.train
    # "auto" is not known beforehand: one more than are kept, at least.
    saves = rules.keep_last + 1 if train.save_every == "auto" else -(-train.steps // train.save_every)
    for_ever = train.steps // rules.keep_every if rules.keep_every else 0
    return min(saves, rules.keep_last + (1 if rules.keep_best else 0) + for_ever)


def _refused(case: Case) -> dict[str, tuple[Any, Any]]:
    standing = case.around.standing
    if standing is None:
        return {}
    config = case.config.with_vocabulary(case.vocabulary) if case.vocabulary else case.config
    now = config.model_dump(mode="json")
    changes = changed_settings(completed(standing.run), now)
    manifests = {name: source.manifest for name, source in case.around.sources.items() if source.manifest}
    content = changed_content(standing.data, {name: manifest.fingerprint for name, manifest in manifests.items()})
    changes |= {key: (before[:12], now[:12]) for key, (before, now) in content.items()}
    return {key: both for key, both in changes.items() if is_fixed(key) and not is_allowed(key, case.allowed)}


def _told(changes: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{key} {before!r} there, {now!r} here" for key, (before, now) in changes.items())


def _step(case: Case) -> int:
    return case.around.standing.step if case.around.standing else 0


CHECKS = (folder_writable, folder_locked, other_model, changed_on_resume, disk_space, open_files)
