"""The one shape every data source yields and every loss reads."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that carries no loss: prompt, padding, or the last token."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one rank's micro-batch."""

    input_ids: Tensor
    """(B, T) int64."""
    labels: Tensor
    """(B, T) int64, already shifted; `IGNORE` where there is nothing to learn."""
    num_targets: int
    """Labels that are learned. Counted on the host, so that no accelerator is waited for."""

    segment_ids: Tensor | None = None
    """(B, T) int64: which document of its window a token belongs to. None: documents see each other."""
    label_weights: Tensor | None = None
    """(B, T) float32: of the loss of each label. None: all learned labels weigh 1."""
    total_weight: float | None = None
    """Of all learned labels, counted on the host; None where there are no weights."""

    @property
    def divisor(self) -> float:
        """What its loss is divided by to be a mean: the weight of all that is learned."""
        return self.num_targets if self.total_weight is None else self.total_weight

    def keywords(self) -> dict[str, Tensor | None]:
        """What a model is told besides the ids, to give their loss."""
        weights = {} if self.label_weights is None else {"label_weights": self.label_weights}
        return {"labels": self.labels, "segment_ids": self.segment_ids, **weights}

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in host memory that an accelerator copies from while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        segment_ids, weights = (None if t is None else move(t) for t in (self.segment_ids, self.label_weights))
        return Batch(move(self.input_ids), move(self.labels), self.num_targets, segment_ids, weights, self.total_weight)
