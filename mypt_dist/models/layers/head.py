"""What does a model say of the next token?"""

from torch import Tensor

from mypt_dist.models.layers.cross_entropy import cross_entropy_sum
from mypt_dist.models.layers.weights import Linear


class Head(Linear):
    """Hidden states to logits, or to the loss of labels.

    The loss belongs to this module because its weight is whole only while this module is called: ZeRO-3 and FSDP2
    gather weights in hooks of exactly that call.
    """

    def forward(self, x: Tensor, labels: Tensor | None = None, label_weights: Tensor | None = None) -> Tensor:
        """(..., E) to logits (..., V); with labels (...) to the sum of their cross-entropy, see `cross_entropy_sum`."""
        if labels is None:
            return super().forward(x)
        return cross_entropy_sum(x, self.weight, self.bias, labels, label_weights)
