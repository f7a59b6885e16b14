"""Everything the loop remembers between steps, besides weights and optimizer."""

from dataclasses import dataclass

from mypt_dist.data.order import GENESIS


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

    def after(self, *, tokens: int, samples: int, order_hash: str) -> "TrainState":
        """The state once a step with this much in it is done."""
        return TrainState(self.step + 1, self.tokens + tokens, self.samples + samples, order_hash)
