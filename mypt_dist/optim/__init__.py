"""Optimizers. A new one is a module here that registers an `OptimizerConfig`."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mypt_dist.config import Component, Registry
from mypt_dist.optim.groups import GroupRule

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class OptimizerConfig(Component):
    """What every optimizer has."""

    lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate; the schedule scales it."""
    groups: tuple[GroupRule, ...] = ()
    """Exceptions for parameters by name. The first rule that matches counts."""

    @abstractmethod
    def build(self, model: "nn.Module") -> "Optimizer":
        """An optimizer over every trainable parameter of ``model``, each in exactly one group.

        Each group says its ``algorithm``, its peak ``lr`` and its ``weight_decay``. Raises `ConfigError` for a rule
        that no parameter follows.
        """


OPTIMIZERS: Registry[OptimizerConfig] = Registry("optimizer", "mypt_dist.optim")


def any_optimizer() -> Any:
    """The annotation of a schema field that holds an optimizer."""
    return OPTIMIZERS.union(default="adamw")
