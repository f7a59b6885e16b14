"""How does a token gather what earlier tokens hold?"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mypt_dist.models.layers.kv_cache import Attend
from mypt_dist.models.layers.rotary import Rotation, rotate
from mypt_dist.models.layers.segments import Mask, masked_attention
from mypt_dist.models.layers.weights import Linear


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Sizes and switches of one attention layer."""

    n_embd: int
    n_head: int
    n_kv_head: int
    head_dim: int
    dropout: float
    out_std: float
    """Standard deviation with which the output projection starts."""
    bias_qkv: bool = False
    bias_out: bool = False
    qk_norm_eps: float | None = None
    """Normalise each head's queries and keys by their root mean square. Null: do not."""


class SelfAttention(nn.Module):
    """Causal attention (Vaswani et al., 2017, arXiv:1706.03762); heads of queries may share keys and values.

    The sharing is grouped-query attention (Ainslie et al., 2023, arXiv:2305.13245).
    """

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.shape = shape
        heads = shape.n_head + 2 * shape.n_kv_head
        self.qkv = Linear(shape.n_embd, heads * shape.head_dim, bias=shape.bias_qkv)
        """Rows: all heads' queries, then keys, then values."""
        self.out = Linear(shape.n_head * shape.head_dim, shape.n_embd, bias=shape.bias_out, std=shape.out_std)
        eps = shape.qk_norm_eps
        self.q_norm = None if eps is None else nn.RMSNorm(shape.head_dim, eps=eps)
        self.k_norm = None if eps is None else nn.RMSNorm(shape.head_dim, eps=eps)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, attend: Attend | None = None, mask: Mask | None = None
    ) -> Tensor:
        """(B, T, E) to (B, T, E).

        ``attend`` replaces attention among these tokens alone, see `KVCache`; ``mask`` restricts it.
        """
        shape, (batch, length, _) = self.shape, x.shape
        heads = self.qkv(x).view(batch, length, -1, shape.head_dim)
        q, k, v = heads.split((shape.n_head, shape.n_kv_head, shape.n_kv_head), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = _normalised(q, self.q_norm), _normalised(k, self.k_norm)
        if rotation is not None:
            # Values are copied, because a view of them would keep all of the projection for the backward pass.
            q, k, v = rotate(q, rotation), rotate(k, rotation), v.contiguous()
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = attend(q, k, v) if attend is not None else self._among_themselves(q, k, v, mask)
        merged = mixed.transpose(1, 2).reshape(batch, length, -1)
        return F.dropout(self.out(merged), shape.dropout, self.training)

    def _among_themselves(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        shape = self.shape
        dropout = shape.dropout if self.training else 0.0
        if mask is not None:
            return masked_attention(q, k, v, mask, dropout)
        grouped = shape.n_kv_head != shape.n_head
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=grouped)


def _normalised(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    # Under autocast heads are bf16 and gains fp32, for which there is no fused kernel.
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)
