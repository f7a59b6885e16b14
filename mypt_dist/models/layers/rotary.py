"""How do rotary positions turn queries and keys?

Rotary position embedding (Su et al., 2021, arXiv:2104.09864) with the pairs of Llama: dimension i goes with
i + D/2. The angles are made anew in every forward pass, in fp32: a table kept as a buffer would be rounded with the
weights and be lost when a model is built on the meta device, and making it costs nothing beside one layer.
"""

from typing import TypeAlias

import torch
from torch import Tensor

Rotation: TypeAlias = tuple[Tensor, Tensor]
"""Factors of a head and of its swapped halves: (cos, cos) and (-sin, sin), each (T, 1, D), or (B, T, 1, D) where rows
stand at different positions."""


def rotation(positions: Tensor, head_dim: int, theta: float, scale: float) -> Rotation:
    """The turns at ``positions``, (T,) or (B, T), for heads of ``head_dim``. ``scale`` divides the positions."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = (positions.float() / scale)[..., None, None] * theta**-exponents
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """(B, T, H, D) heads, turned according to their position."""
    # Rolled rather than split and joined, and in the heads' own dtype: half the time on a CPU in bf16.
    own, swapped = (factor.to(x.dtype) for factor in turn)
    return torch.addcmul(x * own, x.roll(x.size(-1) // 2, dims=-1), swapped)
