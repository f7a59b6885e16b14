"""How does Llama's architecture compute?"""

import torch.nn.functional as F
from torch import Tensor, nn

from mypt_dist.models.layers.attention import AttentionShape, SelfAttention
from mypt_dist.models.layers.decoder import Decoder
from mypt_dist.models.layers.head import Head
from mypt_dist.models.layers.kv_cache import Attend, CacheShape
from mypt_dist.models.layers.rotary import Rotation, rotation
from mypt_dist.models.layers.segments import Mask
from mypt_dist.models.layers.weights import Embedding, Linear, residual_std
from mypt_dist.models.llama import LlamaConfig


class Llama(Decoder):
    """Token ids (B, T) to logits (B, T, V), or with labels to their loss."""

    _no_split_modules = ["LlamaBlock"]

    def __init__(self, config: LlamaConfig) -> None:
        cache = CacheShape(config.n_layer, config.kv_heads, config.context, config.head_width)
        super().__init__(config, cache, tie_embeddings=config.tie_embeddings)
        self.config = config
        self.embed = Embedding(self.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.head = Head(config.n_embd, self.vocab_size, bias=config.bias_head)
        self.tie_weights()

    def embedded(self, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """See `Decoder.embedded`."""
        config = self.config
        turn = rotation(positions, config.head_width, config.rope_theta, config.rope_scale)
        x: Tensor = self.embed(input_ids)
        return x, turn


class LlamaBlock(nn.Module):
    """What one layer adds to the residual stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        shape = AttentionShape(
            n_embd=config.n_embd,
            n_head=config.n_head,
            n_kv_head=config.kv_heads,
            head_dim=config.head_width,
            dropout=config.dropout,
            out_std=residual_std(config.n_layer),
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.norm_attention = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.attention = SelfAttention(shape)
        self.norm_mlp = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, attend: Attend | None = None, mask: Mask | None = None
    ) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        x = x + self.attention(self.norm_attention(x), rotation, attend, mask)
        result: Tensor = x + self.mlp(self.norm_mlp(x))
        return result


class SwiGLU(nn.Module):
    """A hidden layer gated by another (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = Linear(config.n_embd, config.hidden, bias=False)
        self.up = Linear(config.n_embd, config.hidden, bias=False)
        self.down = Linear(config.hidden, config.n_embd, bias=False, std=residual_std(config.n_layer))
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        return F.dropout(self.down(F.silu(self.gate(x)) * self.up(x)), self.dropout, self.training)
