"""What came of a rehearsal, for people and for programs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from mypt_dist.run.rehearse.findings import Finding
from mypt_dist.run.rehearse.scale import World, told

Verdict: TypeAlias = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one stage."""

    verdict: Verdict
    said: str
    """What was seen, or why it was skipped."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class StageResult:
    """An outcome with the stage's name and the seconds that belong to it."""

    stage: str
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """All stages that were asked for, in their order."""

    name: str
    target: str
    engine: str
    world: World
    smaller: World | None
    changes: Mapping[str, tuple[Any, Any]]
    """What the played run has otherwise than the real one."""
    remarks: Sequence[str]
    stages: Sequence[StageResult]
    kept: str | None = None
    """Where the play can be looked at."""

    @property
    def ok(self) -> bool:
        return all(stage.outcome.verdict != "failed" for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "target": self.target,
            "engine": self.engine,
            "ranks": self.world.ranks,
            "nodes": self.world.nodes,
            "resumed_on": asdict(self.smaller) if self.smaller else None,
            "ok": self.ok,
            "changes": {key: {"real": before, "played": now} for key, (before, now) in self.changes.items()},
            "remarks": list(self.remarks),
            "stages": [
                {
                    "stage": stage.stage,
                    "verdict": stage.outcome.verdict,
                    "seconds": round(stage.seconds, 2),
                    "said": stage.outcome.said,
                    "findings": [asdict(finding) for finding in stage.outcome.findings],
                }
                for stage in self.stages
            ],
            "kept": self.kept,
        }

    def rows(self) -> list[list[str]]:
        """Of a table: stage, verdict, seconds, what was seen."""
        return [[s.stage, s.outcome.verdict, f"{s.seconds:.1f}", s.outcome.said] for s in self.stages]

    def notes(self) -> Iterator[str]:
        """Lines below the table: findings, remarks, and how the play differs from the run."""
        for stage in self.stages:
            for finding in stage.outcome.findings:
                first, *others = finding.lines()
                yield f"{stage.stage}: {first}"
                yield from (f"  {line}" for line in others)
        yield from self.remarks
        if self.changes:
            yield "played small: " + ", ".join(told(self.changes))
        if self.kept:
            yield f"kept: {self.kept}"


def failed(said: str, *findings: Finding) -> Outcome:
    """A stage that must be looked at."""
    return Outcome("failed", said, findings)


def passed(said: str, *findings: Finding) -> Outcome:
    """A stage that went well, perhaps with warnings."""
    return Outcome("passed", said, findings)


def skipped(said: str) -> Outcome:
    """A stage that was not played, and why."""
    return Outcome("skipped", said)
