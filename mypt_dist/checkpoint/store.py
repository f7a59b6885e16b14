"""How all ranks of a run save a checkpoint together, and find the newest valid one.

Every decision is made on rank 0 or by all on the same facts, and told to all by a collective: no rank believes
in a save that did not happen, and all resume from the same bytes.
"""

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, cast

from mypt_dist.checkpoint.agreement import NotAgreedError, first, together
from mypt_dist.checkpoint.attempt import Commit, Describe, Extras, Plan, begin_attempt, plan_save, write_attempt
from mypt_dist.checkpoint.catalog import corrupt_folders, step_folders
from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.housekeeping import apply_retention, discard, undo
from mypt_dist.checkpoint.layout import parse_step, step_name
from mypt_dist.checkpoint.manifest import CorruptError, Manifest
from mypt_dist.checkpoint.mapped import MappedFiles
from mypt_dist.checkpoint.reading import Checkpoint
from mypt_dist.checkpoint.receipts import Receipt
from mypt_dist.checkpoint.retention import Retention
from mypt_dist.checkpoint.segments import Segment
from mypt_dist.checkpoint.verify import check_content, check_structure, deal_out, patiently, read_manifest
from mypt_dist.errors import CheckpointError, LockError, SaveError
from mypt_dist.world import JSON, World

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run. `save`, `latest` and `set_back` are collectives: all ranks call them in one order.

    ``may_commit`` is asked on rank 0 before anything becomes visible or is deleted: `RunLock.still_mine`.
    """

    def __init__(
        self,
        root: Path,
        world: World,
        retention: Retention | None = None,
        *,
        may_commit: Callable[[], bool] = lambda: True,
        disk: Disk | None = None,
    ) -> None:
        self.root = root
        self._world = world
        self._retention = retention or Retention()
        self._may_commit = may_commit
        self._disk = disk or Disk()

    def save(
        self,
        step: int,
        segments: Iterable[Segment],
        *,
        rank_state: Mapping[str, JSON],
        files: Mapping[str, bytes],
        describe: Describe,
    ) -> Path:
        """Write a checkpoint and return its folder once it would survive a power cut.

        ``segments`` and ``rank_state`` are this rank's; ``files`` (name -> content) and ``describe`` are used on
        rank 0 alone. A checkpoint of the same step is replaced. Older ones are deleted, by the rules of retention,
        only after this one is safe.

        Raises `SaveError` on every rank when anything failed on any: the older checkpoints are untouched. If only
        the very last wait for the disk failed, the new one may be found, whole, by a later `latest`.
        Raises `LockError` on every rank when the run lock was lost.
        """
        try:
            extras = Extras(rank_state, files)
            plan, told = together(
                self._world,
                lambda: plan_save(step, segments, extras, self._world, self._disk.part_bytes),
                tell=lambda plan: [plan.step, plan.bytes, len(plan.jobs)],
            )
            folder = self.root / str(first(self._world, lambda: self._begin(step, told)))
            target = self._write(plan, folder, describe)
        except NotAgreedError as error:
            raise error.as_error(SaveError, f"the checkpoint of step {step} was not saved") from error
        if self._world.rank == 0:
            apply_retention(self._disk, self.root, self._retention)
        return target

    def latest(
        self, *, healthy: bool = False, on_corrupt: Literal["previous", "stop"] = "previous"
    ) -> Checkpoint | None:
        """The newest valid checkpoint, all of its bytes verified, the same on every rank; None in a fresh folder.

        With ``healthy``, one whose manifest says so: None, too, where none does.

        A corrupt one is renamed to ``step-….corrupt`` with a warning, and the next older one is tried; with
        ``on_corrupt="stop"`` nothing is changed and `CheckpointError` is raised on every rank.
        Raises `CheckpointError` on every rank when there were checkpoints but none is valid, when one is of another
        format, or when one can not be read just now and may be intact.
        """
        try:
            names = cast("list[str]", first(self._world, self._candidates))
            passed_over: list[int] = []
            for name in names:
                found = self._verified(self.root / name, healthy=healthy)
                if isinstance(found, Checkpoint):
                    self._tell_lost(found, passed_over)
                    return found
                if found:
                    move = partial(self._set_aside, self.root / name, found, on_corrupt)
                    passed_over.append(cast("int", first(self._world, move)))
            first(self._world, self._refuse_to_start_afresh)
        except NotAgreedError as error:
            raise error.as_error(CheckpointError, f"no checkpoint of {self.root} is used") from error
        return None

    def lent(self, name: str) -> Checkpoint:
        """The checkpoint in folder ``name``, for others than its run: verified as by `latest`, and never changed.

        A collective. Raises `CheckpointError` on every rank when it is corrupt or can not be read.
        """
        try:
            found = self._verified(self.root / name, healthy=False)
        except NotAgreedError as error:
            raise error.as_error(CheckpointError, f"{self.root / name} is not used") from error
        if isinstance(found, Checkpoint):
            return found
        raise CorruptError(str(self.root / name), found)

    def set_back(self, step: int) -> list[str]:
        """Go back to the checkpoint of ``step``: put every later one aside. The names they had. A collective.

        Nothing is deleted before the run has saved as far again. If this dies half-way, the newest ones are gone and
        calling it again does the rest. Raises `CheckpointError` on every rank, and changes nothing, when there is no
        whole checkpoint of ``step``, and `LockError` when the run lock was lost.
        """
        try:
            return cast("list[str]", first(self._world, lambda: self._undo_after(step)))
        except NotAgreedError as error:
            raise error.as_error(CheckpointError, f"{self.root} was not set back to step {step}") from error

    def _undo_after(self, step: int) -> JSON:
        self._check_lock()
        kept = [folder.path for folder in step_folders(self._disk, self.root) if folder.step == step]
        if not kept:
            raise CheckpointError(f"there is no checkpoint of step {step}")
        check_structure(self._disk, kept[0])
        undone = undo(self._disk, self.root, step)
        log.warning("back to step %d: no longer counted are %s", step, ", ".join(undone) or "no others")
        return list(undone)

    def _begin(self, step: int, told: list[JSON]) -> str:
        plans = cast("list[tuple[int, int, int]]", told)
        steps = sorted({planned for planned, _, _ in plans})
        if steps != [step]:
            raise ValueError(f"the ranks are at different steps: {steps}")
        self._check_lock()
        needed, files = sum(size for _, size, _ in plans), sum(number for _, _, number in plans)
        return begin_attempt(self._disk, self.root, step, needed, files).name

    def _write(self, plan: Plan, folder: Path, describe: Describe) -> Path:
        disk, target = self._disk, self.root / step_name(plan.step)
        commit = Commit(disk, folder, target, plan.step, self._may_commit)
        try:
            _, told = together(self._world, lambda: write_attempt(disk, folder, plan), tell=Receipt.to_json)
            first(self._world, lambda: commit([Receipt.model_validate(receipt) for receipt in told], describe))
        except NotAgreedError:
            # Only now: a rank that failed early must not delete what another still writes.
            if self._world.rank == 0:
                discard(disk, folder)
            raise
        return target

    def _candidates(self) -> JSON:
        found = patiently(self._disk, str(self.root), lambda: step_folders(self._disk, self.root))
        return [folder.path.name for folder in found]

    def _tell_lost(self, checkpoint: Checkpoint, passed_over: list[int]) -> None:
        checkpoint.passed_over = tuple(passed_over)
        if passed_over and self._world.rank == 0:
            step = checkpoint.manifest.step
            log.warning("going on from step %d: %d steps will be done again", step, max(passed_over) - step)

    def _verified(self, folder: Path, *, healthy: bool) -> Checkpoint | list[str]:
        """The checkpoint in ``folder``, or its problems: none for one that is not ``healthy`` but must be."""
        told = cast("dict[str, JSON]", first(self._world, lambda: self._inspect(folder)))
        found = cast("list[str]", told["problems"])
        if healthy and not found and not told["healthy"]:
            return []
        if not found:
            maps = MappedFiles(self._disk, folder)
            (manifest, _), shares = together(
                self._world,
                lambda: self._check_share(folder, str(told["sha256"]), maps),
                tell=lambda mine: list(mine[1]),
            )
            found = [problem for share in cast("list[list[str]]", shares) for problem in share]
            if not found:
                return Checkpoint(folder, manifest, self._disk, maps)
            maps.close()
        return found

    def _inspect(self, folder: Path) -> JSON:
        try:
            manifest = patiently(self._disk, str(folder), lambda: check_structure(self._disk, folder))
        except CorruptError as error:
            return {"problems": list(error.problems), "sha256": ""}
        return {"problems": [], "sha256": manifest.sha256, "healthy": manifest.healthy}

    def _check_share(self, folder: Path, sha256: str, maps: MappedFiles) -> tuple[Manifest, list[str]]:
        """Hash this rank's share of the files; the problems found."""
        manifest = patiently(self._disk, str(folder), lambda: read_manifest(self._disk, folder))
        if manifest.sha256 != sha256:
            raise CheckpointError(f"{folder} is another checkpoint here than on rank 0: is this folder shared?")
        names = deal_out(manifest.files, self._world.size)[self._world.rank]
        share = {name: manifest.files[name] for name in names}
        try:
            patiently(self._disk, str(folder), lambda: check_content(self._disk, folder, share, maps))
        except CorruptError as error:
            return manifest, error.problems
        return manifest, []

    def _set_aside(self, folder: Path, found: list[str], on_corrupt: str) -> JSON:
        """Its step."""
        if on_corrupt == "stop":
            raise CheckpointError(
                f"{folder} is corrupt: {'; '.join(found)}. Nothing was changed: checkpoints.on_corrupt is stop; "
                "with previous the run would go on from the one before it"
            )
        self._check_lock()
        named = parse_step(folder)
        assert named is not None
        target = self.root / step_name(named.step, "corrupt")
        if self._disk.exists(target):
            target = self.root / step_name(named.step, "corrupt", secrets.token_hex(4))
        self._disk.files.rename(folder, target)
        self._disk.files.sync_folder(self.root)
        log.warning("%s is corrupt and is now called %s: %s", folder, target.name, "; ".join(found))
        return named.step

    def _refuse_to_start_afresh(self) -> None:
        corrupt = patiently(self._disk, str(self.root), lambda: corrupt_folders(self._disk, self.root))
        if corrupt:
            names = ", ".join(folder.path.name for folder in corrupt)
            raise CheckpointError(
                f"all of them are corrupt ({names}): delete them or use another folder to start afresh"
            )

    def _check_lock(self) -> None:
        if not self._may_commit():
            raise LockError("another process has taken this run over")
