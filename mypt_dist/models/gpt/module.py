"""How does the classic GPT compute?"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.attention import AttentionShape, SelfAttention
from mypt_dist.models.layers.decoder import Decoder
from mypt_dist.models.layers.head import Head
from mypt_dist.models.layers.kv_cache import Attend, CacheShape
from mypt_dist.models.layers.rotary import Rotation
from mypt_dist.models.layers.segments import Mask
from mypt_dist.models.layers.weights import Embedding, Linear, residual_std

NORM_EPS = 1e-5
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class GPT(Decoder):
    """Token ids (B, T) to logits (B, T, V), or with labels to their loss."""

    _no_split_modules = ["GPTBlock"]

    def __init__(self, config: GPTConfig) -> None:
        head_dim = config.n_embd // config.n_head
        cache = CacheShape(config.n_layer, config.n_head, config.context, head_dim)
        super().__init__(config, cache, tie_embeddings=config.tie_embeddings)
        self.embed = Embedding(self.vocab_size, config.n_embd)
        self.positions = Embedding(config.context, config.n_embd)
        self.blocks = nn.ModuleList(GPTBlock(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, NORM_EPS, bias=config.bias_norm)
        self.head = Head(config.n_embd, self.vocab_size, bias=config.bias_head)
        self.tie_weights()

    def embedded(self, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """See `Decoder.embedded`."""
        return self.embed(input_ids) + self.positions(positions), None


class GPTBlock(nn.Module):
    """What one layer adds to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        shape = AttentionShape(
            n_embd=config.n_embd,
            n_head=config.n_head,
            n_kv_head=config.n_head,
            head_dim=config.n_embd // config.n_head,
            dropout=config.dropout,
            out_std=residual_std(config.n_layer),
            bias_qkv=config.bias_qkv,
            bias_out=config.bias_attention_out,
        )
        self.norm_attention = nn.LayerNorm(config.n_embd, NORM_EPS, bias=config.bias_norm)
        self.attention = SelfAttention(shape)
        self.norm_mlp = nn.LayerNorm(config.n_embd, NORM_EPS, bias=config.bias_norm)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, attend: Attend | None = None, mask: Mask | None = None
    ) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        x = x + self.attention(self.norm_attention(x), rotation, attend, mask)
        result: Tensor = x + self.mlp(self.norm_mlp(x))
        return result


class MLP(nn.Module):
    """One hidden layer, four times as wide."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        hidden = 4 * config.n_embd
        self.up = Linear(config.n_embd, hidden, bias=config.bias_mlp)
        self.down = Linear(hidden, config.n_embd, bias=config.bias_mlp, std=residual_std(config.n_layer))
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        return F.dropout(self.down(self.activation(self.up(x))), self.dropout, self.training)
