"""The one shape every data source yields and every loss reads."""

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

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        ids, labels = (tensor.to(device, non_blocking=True) for tensor in (self.input_ids, self.labels))
        return Batch(ids, labels, self.num_targets)
