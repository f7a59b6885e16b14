"""What does a model say of the next token?"""

from torch import Tensor

from mypt_dist.models.layers.cross_entropy import counted_cross_entropy, cross_entropy_sum
from mypt_dist.models.layers.weights import Linear


class Head(Linear):
    """Hidden states to logits, or to the loss of labels.

    The loss belongs to this module because its weight is whole only while this module is called: ZeRO-3 and FSDP2
    gather weights in hooks of exactly that call.
    """

    def forward(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        label_weights: Tensor | None = None,
        *,
        count_right: bool = False,
    ) -> Tensor:
        """(..., E) to logits (..., V); with labels (...) to the sum of their cross-entropy, see `cross_entropy_sum`.

        ``count_right``: see `counted_cross_entropy`.
        """
        if labels is None:
            return super().forward(x)
        loss = counted_cross_entropy if count_right else cross_entropy_sum
        return loss(x, self.weight, self.bias, labels, label_weights)
