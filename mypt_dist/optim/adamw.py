"""AdamW with decay on matrices only."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mypt_dist.optim import OPTIMIZERS, OptimizerConfig
from mypt_dist.optim.groups import GroupRule, Settings, assign, param_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWRule(GroupRule):
    """An exception for parameters by name. What it leaves out is as for all."""

    algorithm: Literal["adamw"] | None = None
    """There is no other here."""


@OPTIMIZERS.register
class AdamWConfig(OptimizerConfig):
    """Decoupled weight decay (Loshchilov & Hutter, 2019, arXiv:1711.05101), by torch's fused kernel."""

    type: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """0.95 instead of 0.999, as GPT-3: the second moment follows a language model's drifting gradients."""
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices and embeddings; biases and gains are never decayed, unless a rule says so."""
    groups: tuple[AdamWRule, ...] = ()
    """Exceptions for parameters by name. The first rule that matches counts."""

    def build(self, model: "nn.Module") -> "Optimizer":
        import torch  # noqa: PLC0415 - a run file is checked without torch

        def default(parameter: "nn.Parameter") -> Settings:
            return Settings("adamw", self.lr, self.weight_decay if parameter.ndim >= 2 else 0.0)

        groups = param_groups(assign(model, default, self.groups))
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
