"""How do the tokens of a window attend to those of their own document only?

A window is cut from a long row of documents, so it holds the end of one and the beginnings of others. Tokens of one
document carry the same segment id, and ids grow along the window. Positions start again with every segment.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Mask: TypeAlias = Tensor | BlockMask
"""Which keys a query sees: (B, 1, T, T) booleans for PyTorch's own attention, blocks of them for flex attention."""

Backend: TypeAlias = Literal["sdpa", "flex"]

MIN_FLEX_HEAD_DIM = 16
"""Narrower heads have no fused kernel."""


def backend_for(device: torch.device, head_dim: int, dropout: float) -> Backend:
    """Flex attention (Dong et al., 2024, arXiv:2412.05496) where it is fused, as it skips what the mask hides.

    That is on CUDA with Triton. It knows no dropout, and outside of a compiler it is slower than SDPA with a mask.
    """
    fused = device.type == "cuda" and find_spec("triton") is not None
    return "flex" if fused and head_dim >= MIN_FLEX_HEAD_DIM and dropout == 0 else "sdpa"


def segment_positions(segment_ids: Tensor) -> Tensor:
    """(B, T) ids to the place of each token within its segment, counted from the window's part of it."""
    places = torch.arange(segment_ids.size(1), device=segment_ids.device)
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return places - torch.where(begins, places, 0).cummax(dim=1).values


def segment_mask(segment_ids: Tensor, backend: Backend) -> Mask:
    """(B, T) ids to a mask that is causal and within segments. Made once for all layers."""
    length = segment_ids.size(1)
    if backend == "sdpa":
        same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        return same & torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segment_ids[batch, query] == segment_ids[batch, key])

    return create_block_mask(visible, len(segment_ids), None, length, length, segment_ids.device)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float) -> Tensor:
    """Queries (B, H, T, D), keys and values (B, K, T, D) to what each query sees, (B, H, T, D)."""
    grouped = k.size(1) != q.size(1)
    if isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)
    # A block that is compiled takes the plain function into its own graph.
    flex = _compiled_flex() if q.is_cuda and not torch.compiler.is_compiling() else flex_attention
    mixed: Tensor = flex(q, k, v, block_mask=mask, enable_gqa=grouped)
    return mixed


@cache
def _compiled_flex() -> Any:
    # Not for any size: the odd batch at the end of an evaluation must not replace the kernel of training.
    return torch.compile(flex_attention, dynamic=False)
