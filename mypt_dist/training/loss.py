"""Next-token cross-entropy, summed: the caller knows how many targets the whole step has."""

import torch.nn.functional as F
from torch import Tensor

from mypt_dist.data.batch import IGNORE


def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats over all learned labels, in fp32: (B, T, V) logits and (B, T) labels to a scalar."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
