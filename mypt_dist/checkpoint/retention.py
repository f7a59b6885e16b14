"""Which checkpoints are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mypt_dist.checkpoint.ephemeral import is_ephemeral
from mypt_dist.config import Config


class Retention(Config):
    """Which checkpoints are kept: the union of these. The newest always is, and the newest healthy one."""

    keep_last: Annotated[int, Field(ge=2)] = 3
    """So many of the newest. One alone would be refused: should its bytes change, all work is lost."""
    keep_every: Annotated[int, Field(ge=1)] | None = None
    """Every one whose step is a multiple of this, for ever."""
    keep_best: str | None = "val/loss"
    """The one at which this metric is lowest."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint whose manifest, files and sizes are right. What is not valid is never counted, nor deleted."""

    folder: Path
    step: int
    metrics: dict[str, float]
    healthy: bool = True
    """As its manifest says."""


def victims(rules: Retention, valid: Sequence[Kept]) -> list[Kept]:
    """Which of the ``valid`` checkpoints no rule keeps, oldest first."""
    oldest_first = sorted(valid, key=lambda kept: kept.step)
    lasting = [kept for kept in oldest_first if not is_ephemeral(kept.metrics)]
    keep = {kept.step for kept in (*lasting[-rules.keep_last :], *oldest_first[-1:])}
    # A storm of bad numbers must not rotate out the one to go back to.
    keep |= set([kept.step for kept in oldest_first if kept.healthy][-1:])
    if rules.keep_every:
        keep |= {kept.step for kept in lasting if kept.step % rules.keep_every == 0}
    if rules.keep_best:
        measured = [kept for kept in lasting if rules.keep_best in kept.metrics]
        # Of equals the newest: min takes the first.
        best = min(reversed(measured), key=lambda kept: kept.metrics[rules.keep_best or ""], default=None)
        keep |= {best.step} if best else set()
    return [kept for kept in oldest_first if kept.step not in keep]
