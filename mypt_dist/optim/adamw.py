"""AdamW with decay on matrices only."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mypt_dist.optim import OPTIMIZERS, OptimizerConfig

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@OPTIMIZERS.register
class AdamWConfig(OptimizerConfig):
    """Decoupled weight decay (Loshchilov & Hutter, 2019, arXiv:1711.05101), by torch's fused kernel."""

    type: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    """0.95 instead of 0.999, as GPT-3: the second moment follows a language model's drifting gradients."""
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices and embeddings; biases and gains are never decayed."""

    def build(self, model: "nn.Module") -> "Optimizer":
        import torch  # noqa: PLC0415 - a run file is checked without torch

        params = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
