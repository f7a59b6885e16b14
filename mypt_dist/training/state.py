"""Everything the loop remembers between steps, besides weights and optimizer."""

import math
from dataclasses import dataclass, replace

from mypt_dist.data.order import GENESIS
from mypt_dist.training.guard import FRESH, Entry, GuardState


@dataclass(frozen=True, slots=True)
class TrainState:
    """Whole numbers and one string, so a checkpoint keeps them as JSON."""

    step: int = 0
    """Optimizer updates done."""
    tokens: int = 0
    """Targets learned, over all ranks."""
    samples: int = 0
    """Samples consumed, over all ranks: the position in the data order."""
    order_hash: str = GENESIS
    """Audit chain over the samples of every step."""
    guard: GuardState = FRESH

    def after(self, *, tokens: int, samples: int, order_hash: str) -> "TrainState":
        """The state once a step with this much in it is done."""
        return TrainState(self.step + 1, self.tokens + tokens, self.samples + samples, order_hash, self.guard)

    def refused(self, before: "TrainState", objection: str) -> "TrainState":
        """The same after the step from ``before``, whose update was not made."""
        entry = Entry(self.step, before.samples, self.samples, objection)
        return replace(self, guard=self.guard.refused(entry))

    def accepted(self, loss: float, norm: float, window: int) -> "TrainState":
        """The same after a step whose update was made. An infinite norm is an overflow of fp16, which made none."""
        return replace(self, guard=self.guard.accepted(loss, norm, window)) if math.isfinite(norm) else self

    def behind(self, later: "TrainState") -> "TrainState":
        """This healthy state, to go on behind the samples that ``later`` has consumed without success."""
        entry = Entry(later.step, self.samples, later.samples, later.guard.ledger[-1].reason, back_to=self.step)
        return replace(self, samples=later.samples, guard=self.guard.went_back(later.guard, entry))
