"""The run's folder as an earlier part of the run left it: is it in use, and can it be resumed from?"""

from pathlib import Path

from pydantic import ValidationError

from mypt_dist.checkpoint import list_checkpoints
from mypt_dist.checkpoint.lock import LOCK, Record
from mypt_dist.checkpoint.process import Process, is_alive
from mypt_dist.errors import CheckpointError
from mypt_dist.run.doctor.check import Check, Result, fail, ok, skip, warn


def lock(folder: Path) -> Result:
    """Whether another process trains in ``folder``."""
    try:
        record = Record.model_validate_json((folder / LOCK).read_bytes().strip(b" \0\n"))
    except FileNotFoundError:
        return ok("free")
    except (ValidationError, NotADirectoryError) as error:
        return warn(f"{folder / LOCK} cannot be read: {str(error).splitlines()[0]}", "a run will say what to do")
    if not Process.this().sees(record.process):
        return warn(f"held by {record}, of which this machine cannot tell", "a run waits whether it is renewed")
    if is_alive(record.process):
        return fail(f"held by {record}", "that run goes on: stop it first, or set out= to another folder")
    return ok(f"left by {record}, which is gone: it will be taken over")


def checkpoints(folder: Path) -> Result:
    """Whether the newest one in ``folder`` is whole, by its manifest and the sizes of its files."""
    try:
        found = list_checkpoints(folder)
    except CheckpointError:
        return ok("none yet: a new run")
    valid = [summary for summary in found if summary.problem is None]
    if not valid:
        return fail(f"{len(found)}, none is valid: {found[-1].problem}", "see mypt ckpt verify; or set out= to another")
    newest = max(found, key=lambda summary: summary.step)
    if newest.problem:
        return warn(
            f"{newest.folder.name}: {newest.problem}; step {valid[-1].step} would be resumed from",
            "nothing, if those steps may be repeated",
        )
    return ok(f"{len(valid)}, would resume from step {valid[-1].step}")


def folder_checks(folder: Path | None) -> list[Check]:
    """Of a run's ``folder``, None without a run file."""
    without = skip("no run file: name one with --run")
    return [
        Check("run lock", "two runs that write into one folder", lambda: lock(folder) if folder else without),
        Check("checkpoints", "a run that cannot be resumed", lambda: checkpoints(folder) if folder else without),
    ]
