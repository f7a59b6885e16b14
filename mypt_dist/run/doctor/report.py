"""All checks in their order, on one process or on all ranks of a launcher."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mypt_dist.errors import LostPeerError
from mypt_dist.launch.supervision.gpus import visible_gpus
from mypt_dist.run.doctor.check import Check, Finding, Result, examine, examine_all, merged, ok
from mypt_dist.run.doctor.disk import disk_checks
from mypt_dist.run.doctor.folder import folder_checks
from mypt_dist.run.doctor.inputs import checkpoint_bytes, run_checks
from mypt_dist.run.doctor.machine import machine_checks
from mypt_dist.run.doctor.network import network_checks
from mypt_dist.run.doctor.together import alone, group_checks, meet
from mypt_dist.run.doctor.variables import rank_variables, variable_checks
from mypt_dist.run.doctor.versions import version_checks
from mypt_dist.tracking.mlflow_sender.settings import resolve_uri
from mypt_dist.tracking.mlflow_tracker import MlflowConfig

if TYPE_CHECKING:
    from mypt_dist.run.config import RunConfig
    from mypt_dist.world import World

FAILURE = 2
"""Exit code when a check failed: bad input, as anywhere else."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    rank: int
    """Of this process; rank 0 has the findings of all."""
    ranks: int
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0 if a run would work, with or without warnings."""
        return FAILURE if any(finding.status == "fail" for finding in self.findings) else 0

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.exit_code == 0,
            "ranks": self.ranks,
            "checks": [finding.to_json() for finding in self.findings],
        }


def diagnose(config: "RunConfig | None", environ: Mapping[str, str] = os.environ) -> Report:
    """Look at everything, for the run of ``config`` if there is one. Changes nothing: temporary files are removed.

    Under a launcher every rank looks, and all learn the worst of what they found.
    """
    launched = rank_variables(environ).status == "ok" and int(environ.get("WORLD_SIZE", "1")) > 1
    findings = examine_all(_local(config, environ))
    if not launched:
        return Report(0, 1, [*findings, *examine_all(alone())])
    return _with_others(config, environ, findings)


def _local(config: "RunConfig | None", environ: Mapping[str, str]) -> Iterator[Check]:
    present = None if _on_cpu(environ) else visible_gpus(environ)
    local = environ.get("LOCAL_WORLD_SIZE", "")
    yield from version_checks(present)
    yield from variable_checks(environ, config.train.precision if config else "fp32", _uri(config))
    yield from machine_checks(environ, int(local) if local.isdigit() else 1, gpus=bool(present))
    yield from disk_checks(
        _out(config), cache(lambda: checkpoint_bytes(config)), config.checkpoints.keep_last if config else 3
    )
    yield from folder_checks(config.folder if config else None)
    yield from network_checks(environ, _uri(config))
    yield from run_checks(config, environ)


def _with_others(config: "RunConfig | None", environ: Mapping[str, str], findings: list[Finding]) -> Report:
    gpus = not _on_cpu(environ) and bool(visible_gpus(environ))
    met: list[tuple[World, str]] = []

    def look() -> Result:
        met.append(meet(environ, gpus=gpus))
        return ok("they meet")

    missed = examine(Check("ranks", "ranks that never meet", look, limit_s=90))
    rank, ranks = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    if not met:
        return Report(rank, ranks, [*findings, missed])
    world, backend = met[0]
    findings = [*findings, *examine_all(group_checks(world, backend, _out(config)))]
    try:
        gathered = world.all_gather([finding.to_json() for finding in findings])
    except LostPeerError as error:
        lost = Finding("report", "fail", str(error), "a rank that dies without a word", "see its own messages")
        return Report(rank, ranks, [*findings, lost])
    reports = [[Finding(**entry) for entry in report] for report in gathered]  # type: ignore[arg-type, union-attr]
    return Report(rank, ranks, merged(reports))


def _on_cpu(environ: Mapping[str, str]) -> bool:
    return environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") or environ.get("DS_ACCELERATOR") == "cpu"


def _out(config: "RunConfig | None") -> Path:
    return config.folder if config else Path("runs").resolve()


def _uri(config: "RunConfig | None") -> str | None:
    """Of the run's MLflow tracker, if it has one."""
    tracker = next((t for t in config.trackers if isinstance(t, MlflowConfig)), None) if config else None
    return resolve_uri(tracker.uri) if tracker else None
