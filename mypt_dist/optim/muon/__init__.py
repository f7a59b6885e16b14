"""Muon for the matrices inside the blocks, AdamW for embeddings, head, gains and biases."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mypt_dist.errors import ConfigError
from mypt_dist.optim import OPTIMIZERS, OptimizerConfig
from mypt_dist.optim.adamw import Beta
from mypt_dist.optim.groups import GroupRule, Member, Settings, assign, param_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class MuonRule(GroupRule):
    """An exception for parameters by name. What it leaves out is as the default for this kind of parameter."""

    algorithm: Literal["adamw", "muon"] | None = None
    """Null: ``muon`` for matrices, ``adamw`` for embeddings, the head, gains and biases."""


@OPTIMIZERS.register
class MuonConfig(OptimizerConfig):
    """Momentum made orthogonal by Newton-Schulz steps (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

    An update is scaled by ``0.2 sqrt(max(rows, columns))``, so that its root mean square is near that of AdamW's and
    one learning rate and decay serve both (Liu et al., 2025, arXiv:2502.16982, section 2.2).
    """

    type: Literal["muon"] = "muon"
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of the Muon part."""
    nesterov: bool = True
    """Mix the gradient into the momentum once more before it is used."""
    ns_steps: int = Field(default=5, ge=1, lt=100)
    """Newton-Schulz steps, in bf16."""
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices and embeddings, of both parts; biases and gains are never decayed, unless a rule says so."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Of the AdamW part."""
    eps: float = Field(default=1e-8, gt=0)
    """Of the AdamW part."""
    groups: tuple[MuonRule, ...] = ()
    """Exceptions for parameters by name. The first rule that matches counts."""

    def build(self, model: "nn.Module") -> "Optimizer":
        from mypt_dist.optim.muon.combined import adamw_and_muon, vocabulary_parameters  # noqa: PLC0415 - as models

        looked_up = vocabulary_parameters(model)

        def default(parameter: "nn.Parameter") -> Settings:
            is_hidden_matrix = parameter.ndim == 2 and id(parameter) not in looked_up
            decay = self.weight_decay if parameter.ndim >= 2 else 0.0
            return Settings("muon" if is_hidden_matrix else "adamw", self.lr, decay)

        members = assign(model, default, self.groups)
        _refuse_other_than_matrices(members)
        return adamw_and_muon(param_groups(members), self)


def _refuse_other_than_matrices(members: list[Member]) -> None:
    wrong = [m for m in members if m.settings.algorithm == "muon" and m.parameter.ndim != 2]
    if wrong:
        first = wrong[0]
        raise ConfigError(
            f"optimizer.groups.{first.rule}.algorithm: muon is for matrices, {first.name} has shape "
            f"{list(first.parameter.shape)}: narrow the pattern, or leave algorithm out"
        )
