"""How do several optimizers step as one?"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from mypt_dist.optim.muon.whole_matrices import WholeMatrixMuon

if TYPE_CHECKING:
    from mypt_dist.optim.muon import MuonConfig

Group: TypeAlias = dict[str, Any]


class Combined(Optimizer):
    """Each group is updated by the optimizer that its ``algorithm`` names; to everyone else it is one optimizer.

    Groups and state are this object's alone. What holds it may replace them: `load_state_dict` makes new ones, FSDP
    puts shards in the place of parameters. So the parts are shown the present ones at every step and keep nothing.
    """

    def __init__(self, groups: list[Group], parts: Mapping[str, Callable[[list[Group]], Optimizer]]) -> None:
        self._parts = {
            name: make(own)
            for name, make in parts.items()
            if (own := [group for group in groups if group["algorithm"] == name])
        }
        # A part fills in the settings that its groups leave out; the order stays that of ``groups``.
        filled = {name: iter(part.param_groups) for name, part in self._parts.items()}
        super().__init__([next(filled[group["algorithm"]]) for group in groups], {})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. ``closure`` is called once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["algorithm"] == name]
            part.state = self.state
            part.step()
        return loss


def adamw_and_muon(groups: list[Group], config: "MuonConfig") -> Combined:
    """Torch's AdamW and Muon over ``groups``, which bring ``lr`` and ``weight_decay`` along."""
    adamw = partial(AdamW, betas=config.betas, eps=config.eps, fused=True)
    muon = partial(
        WholeMatrixMuon,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.ns_steps,
        adjust_lr_fn="match_rms_adamw",
    )
    return Combined(groups, {"adamw": adamw, "muon": muon})


def vocabulary_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters of embeddings and of the output head: matrices by shape, but tables of vectors in use."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) or module is head]
    return {id(parameter) for module in tables for parameter in module.parameters(recurse=False)}
