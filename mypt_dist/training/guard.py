"""Is this update fit to be made? One decision a step, from numbers that are the same on every rank.

An update whose loss or gradient norm is not finite, or far above what the run has seen lately, is not made: weights
and moments stay as they are, bit for bit. After several in a row the run goes back to its last healthy checkpoint and
passes over the samples since then, as was done for PaLM (Chowdhery et al., 2022, arXiv:2204.02311, section 5.1).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from pydantic import Field

from mypt_dist.config import Config
from mypt_dist.world import JSON

ENOUGH = 64
"""Accepted steps before anything counts as a spike: at the start of a run losses and norms change too fast to judge."""

NARROWEST = 0.01
"""Of the median: a smaller spread is taken for this one, or a run that has learned its data would trip over noise."""

LEDGER = 1000
"""Entries that are kept, the newest ones. A run that skips more often has another problem, and `skipped` counts on."""


class GuardConfig(Config):
    """When an update is not made, and what happens if that goes on."""

    spike: float | None = Field(default=8.0, gt=0)
    """Robust standard deviations above the median of the window, for the loss and for the logarithm of the gradient
    norm. The default lets through what clipping can deal with; OLMo skips from 6 on. Null: only what is not finite."""
    window: int = Field(default=128, ge=ENOUGH)
    """Accepted steps that a new one is compared with."""
    max_skips: int = Field(default=10, ge=1)
    """Steps skipped in a row after which the run goes back to its last healthy checkpoint. A bad batch or two do no
    harm; ten mean that the weights themselves have gone astray."""
    max_rollbacks: int = Field(default=3, ge=0)
    """Times a run may go back before it ends with exit code 4: then the cause is not in the samples."""
    compare_every: int = Field(default=100, ge=1)
    """Steps between comparisons of weights that several ranks hold alike. Before every save they are compared too."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Samples that taught the run nothing, and why."""

    step: int
    """The update that was not made, or the one at which the run went back."""
    first: int
    """Position of the first of the samples."""
    end: int
    """Position behind the last of them."""
    reason: str
    back_to: int | None = None
    """The step that the run went back to. Null: one update was skipped."""


@dataclass(frozen=True, slots=True)
class GuardState:
    """What the decision rests on. Part of the checkpoint, so that a resumed run decides as an uninterrupted one."""

    losses: tuple[float, ...] = ()
    """Of the latest accepted steps, oldest first."""
    norms: tuple[float, ...] = ()
    in_a_row: int = 0
    """Skipped since the last accepted step."""
    skipped: int = 0
    """Updates, over the whole run."""
    rollbacks: int = 0
    ledger: tuple[Entry, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether the last update was made: a checkpoint of now is worth going back to."""
        return self.in_a_row == 0

    def accepted(self, loss: float, norm: float, window: int) -> "GuardState":
        """After a step that counts. Only such steps enter the window: one NaN in it would make every verdict a NaN."""
        losses, norms = (*self.losses, loss)[-window:], (*self.norms, norm)[-window:]
        return replace(self, losses=losses, norms=norms, in_a_row=0)

    def refused(self, entry: Entry) -> "GuardState":
        """After an update that was not made."""
        entries = (*self.ledger, entry)[-LEDGER:]
        return replace(self, in_a_row=self.in_a_row + 1, skipped=self.skipped + 1, ledger=entries)

    def went_back(self, later: "GuardState", entry: Entry) -> "GuardState":
        """This healthy state, as it goes on after ``later`` has led nowhere."""
        entries = (*later.ledger, entry)[-LEDGER:]
        return replace(self, in_a_row=0, skipped=later.skipped, rollbacks=later.rollbacks + 1, ledger=entries)

    def to_json(self) -> dict[str, JSON]:
        """Exact: floats in hexadecimal."""
        return {
            "losses": [loss.hex() for loss in self.losses],
            "norms": [norm.hex() for norm in self.norms],
            "in_a_row": self.in_a_row,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "ledger": ledger_json(self.ledger),
        }

    @classmethod
    def from_json(cls, saved: dict[str, JSON]) -> "GuardState":
        """What `to_json` wrote."""
        entries = cast("list[dict[str, JSON]]", saved["ledger"])
        return cls(
            losses=tuple(float.fromhex(str(loss)) for loss in cast("list[JSON]", saved["losses"])),
            norms=tuple(float.fromhex(str(norm)) for norm in cast("list[JSON]", saved["norms"])),
            in_a_row=cast("int", saved["in_a_row"]),
            skipped=cast("int", saved["skipped"]),
            rollbacks=cast("int", saved["rollbacks"]),
            ledger=tuple(Entry(**entry) for entry in entries),  # type: ignore[arg-type]  # written by ledger_json
        )


FRESH = GuardState()


def ledger_json(ledger: Sequence[Entry]) -> list[JSON]:
    """For the manifest."""
    return [{"step": e.step, "first": e.first, "end": e.end, "reason": e.reason, "back_to": e.back_to} for e in ledger]


def objection(state: GuardState, config: GuardConfig, loss: float, norm: float) -> str | None:
    """Why an update with this mean loss in nats and this gradient norm must not be made; None if it may."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient norm is {norm}"
    if config.spike is None or len(state.losses) < ENOUGH:
        return None
    deviation = deviations(state.losses, loss)
    if deviation > config.spike:
        return f"the loss {loss:.4g} is {deviation:.0f} deviations above {statistics.median(state.losses):.4g}"
    deviation = deviations([_log(value) for value in state.norms], _log(norm))
    if deviation > config.spike:
        return f"the gradient norm {norm:.4g} is {deviation:.0f} deviations above {statistics.median(state.norms):.4g}"
    return None


def deviations(window: Sequence[float], value: float) -> float:
    """How far above the median, in standard deviations of a normal distribution with the window's median deviation."""
    median = statistics.median(window)
    spread = 1.4826 * statistics.median(abs(known - median) for known in window)
    return (value - median) / max(spread, NARROWEST * max(1.0, abs(median)))


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-12))
