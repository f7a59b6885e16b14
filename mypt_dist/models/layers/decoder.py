"""What do pre-norm decoders have in common: embedding, blocks, norm, head?"""

from abc import abstractmethod
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.models.layers.head import Head
from mypt_dist.models.layers.kv_cache import Attend, CacheShape, Extension, KVCache
from mypt_dist.models.layers.rotary import Rotation
from mypt_dist.models.layers.segments import Mask, backend_for, segment_mask, segment_positions
from mypt_dist.models.layers.weights import count_matrix_weights


class Decoder(CausalLM):
    """A `CausalLM` made of equal blocks. A subclass gives the parts and says what positions do."""

    embed: nn.Embedding
    blocks: nn.ModuleList
    """Each maps (B, T, E), a rotation or none, an `Attend` or none, and a `Mask` or none to (B, T, E)."""
    norm: nn.Module
    head: Head

    def __init__(self, config: ModelConfig, cache_shape: CacheShape, *, tie_embeddings: bool) -> None:
        """``cache_shape``: that of a cache as long as the context."""
        super().__init__()
        self.vocab_size = config.rows
        self.context = config.context
        self.activation_checkpointing = config.activation_checkpointing
        self.tie_embeddings = tie_embeddings
        self.cache_shape = cache_shape
        self._dropout = config.dropout
        self._query_width = config.n_head * cache_shape.head_dim

    @abstractmethod
    def embedded(self, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """The residual stream's start, (B, T, E), and the turns of queries and keys, if positions are told that way."""

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
        """See `CausalLM.forward`."""
        hidden = self.hidden(input_ids, cache, segment_ids)
        if labels is None:
            logits: Tensor = self.head(hidden)
            return logits
        result: Tensor = self.head(hidden, labels, label_weights, count_right=count_right)
        return result

    def hidden(self, input_ids: Tensor, cache: KVCache | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """See `CausalLM.hidden`."""
        length = input_ids.size(1)
        if length > self.context:
            raise ValueError(f"{length} tokens are longer than the model's context of {self.context}")
        extension = None if cache is None else cache.extension(length)
        positions, mask = self._places(input_ids, extension, segment_ids)
        x, rotation = self.embedded(input_ids, positions)
        for number, block in enumerate(self.blocks):
            attend = None if extension is None else partial(extension.attend, number)
            x = self._through(block, x, rotation, attend, mask)
        if cache is not None:
            cache.advance(length)
        last: Tensor = self.norm(x)
        return last

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """See `CausalLM.new_cache`."""
        capacity = self.context if capacity is None else capacity
        if capacity > self.context:
            raise ValueError(f"a cache of {capacity} tokens is longer than the model's context of {self.context}")
        shape = replace(self.cache_shape, capacity=capacity)
        return KVCache(shape, batch_size, device=self.embed.weight.device, dtype=self.embed.weight.dtype)

    def flops_per_token(self, seq_len: int) -> int:
        """See `CausalLM.flops_per_token`."""
        return 6 * count_matrix_weights(self) + 12 * self.cache_shape.n_layer * self._query_width * seq_len

    def tie_weights(self) -> None:
        """See `CausalLM.tie_weights`."""
        if self.tie_embeddings:
            self.head.weight = self.embed.weight

    def get_input_embeddings(self) -> nn.Module:
        """See `CausalLM.get_input_embeddings`."""
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        """See `CausalLM.get_output_embeddings`."""
        return self.head

    def _places(
        self, input_ids: Tensor, extension: Extension | None, segment_ids: Tensor | None
    ) -> tuple[Tensor, Mask | None]:
        """Where the tokens stand, and what they see if that is not simply everything before them."""
        if extension is not None:
            if segment_ids is not None:
                raise ValueError("segment_ids and a cache exclude each other: a cache holds one document a row")
            return extension.positions, None
        if segment_ids is None:
            return torch.arange(input_ids.size(1), device=input_ids.device), None
        if segment_ids.shape != input_ids.shape:
            raise ValueError(f"segment_ids of shape {tuple(segment_ids.shape)} do not fit ids {tuple(input_ids.shape)}")
        backend = backend_for(input_ids.device, self.cache_shape.head_dim, self._dropout if self.training else 0.0)
        return segment_positions(segment_ids), segment_mask(segment_ids, backend)

    def _through(
        self, block: nn.Module, x: Tensor, rotation: Rotation | None, attend: Attend | None, mask: Mask | None
    ) -> Tensor:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled() and attend is None:
            recomputed: Tensor = checkpoint(block, x, rotation, None, mask, use_reentrant=False)
            return recomputed
        result: Tensor = block(x, rotation, attend, mask)
        return result
