"""What may training, generation and saving ask of any model?"""

from abc import abstractmethod

from torch import Tensor, nn

from mypt_dist.models.layers.kv_cache import KVCache


class CausalLM(nn.Module):
    """Token ids in, next-token logits out, or with labels their loss. No optimizer, no device: those are training's."""

    _no_split_modules: list[str]
    """Block classes that FSDP wraps whole. The name is the one Accelerate looks for."""

    vocab_size: int
    """Logits per position. Ids that the tokenizer does not use are among them."""

    context: int
    """Positions the model can attend to, in tokens."""

    @abstractmethod
    def forward(  # noqa: PLR0913 - engines gather weights in hooks of exactly this call
        self,
        input_ids: Tensor,
        cache: KVCache | None = None,
        *,
        labels: Tensor | None = None,
        segment_ids: Tensor | None = None,
        label_weights: Tensor | None = None,
        count_right: bool = False,
    ) -> Tensor:
        """(B, T) int64 ids to (B, T, V) logits, or to the loss of ``labels``.

        With ``labels``, (B, T) int64 that are already shifted, -100 where there is nothing to learn: the sum of the
        cross-entropy over learned labels, in nats, a scalar in fp32. The logits of the whole batch are never made.
        ``label_weights``, (B, T) in fp32, or the bits of that as int32, multiply the loss of each label. With
        ``count_right`` also how many learned labels are the likeliest token, (2,) in fp64, without a gradient.

        With ``segment_ids``, (B, T) int64 that grow along a row: tokens see those of their own segment only, and
        positions start again with each. With a cache, the ids continue what it holds: they attend to it and are added
        to it. Raises `ValueError` for both at once, and if the ids reach beyond the context or the cache.
        """

    @abstractmethod
    def hidden(self, input_ids: Tensor, cache: KVCache | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """As `forward`, up to the head: (B, T, E). Saves the logits of a prompt that nobody reads."""

    @abstractmethod
    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """An empty cache for `forward`, in the weights' dtype and place. ``capacity``: tokens a row, else the context.

        Raises `ValueError` if the capacity is larger than the context.
        """

    @abstractmethod
    def flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations of one training step (forward and backward) per token of a window.

        Counted as in PaLM (Chowdhery et al., 2022, arXiv:2204.02311, appendix B): ``6 N + 12 L H Q T`` with N the
        weights of matrix products, Q the head width and T = ``seq_len``. The head is a matrix product, tied or not;
        looking up embeddings is none. The causal mask is not deducted, and recomputed activations are not added.
        """

    @abstractmethod
    def tie_weights(self) -> None:
        """Make the head use the embedding's weight again, where the architecture ties them. Accelerate calls it."""

    @abstractmethod
    def get_input_embeddings(self) -> nn.Module:
        """The token embedding. Accelerate looks for it by name."""

    @abstractmethod
    def get_output_embeddings(self) -> nn.Module:
        """The head: (..., E) to (..., V), or with labels (...) to their loss. Accelerate looks for it by name."""
