"""A model and its optimizer in the hands of an engine: what the loop and the checkpoints ask of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mypt_dist.engine.host import peers_may_be_lost
from mypt_dist.engine.placement import LocalTensor, StateReader, fill, written
from mypt_dist.world import JSON


@dataclass(frozen=True, slots=True)
class StepRecipe:
    """What an engine must know of a step before it takes hold of a model."""

    max_norm: float
    """The gradient of the global batch is scaled down to this norm."""
    micro_batch: int = 1
    """Windows of one forward pass of one rank."""
    micro_batches: int = 1
    """Forward passes of one rank in a step."""
    hold_gradients: bool = False
    """FSDP2: keep whole gradients until the step's last micro-batch instead of sharing them out after each."""


Accept: TypeAlias = Callable[[float], bool]
"""Is told the norm of the global batch's gradient before clipping, and says, the same on every rank, whether the update
is made. A collective."""


class Update(NamedTuple):
    """What an optimizer update did."""

    norm: float
    """Of the global batch's gradient before clipping."""
    skipped: bool = False
    """Nothing was changed: it was not accepted, or in fp16 the gradient overflowed and the loss scale was halved."""


class Trainable(ABC):
    """The prepared model of one engine. Gradients are sums over ranks: losses come divided by the step's targets."""

    model: nn.Module
    """For training's forward passes; a collective where weights are sharded."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The model itself, still cast: for evaluation, whose forward passes need no gradient buckets."""

    @property
    @abstractmethod
    def param_groups(self) -> list[dict[str, Any]]:
        """Where learning rates are written."""

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward pass of one micro-batch; ``last``: of its step."""
        with peers_may_be_lost(), self._share_gradients(last):
            yield

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """``loss`` is this rank's share of the step's mean: the shares of all ranks add up to it."""

    def update(self, accept: Accept = lambda norm: True) -> Update:
        """Clip and step, if ``accept`` agrees; clear. If not, weights and optimizer state stay bit for bit."""
        with peers_may_be_lost():
            return self._update(accept)

    @abstractmethod
    def replicas(self) -> list[Tensor]:
        """What this rank holds of the weights, if others must hold the very same: see `copy_group`."""

    @property
    @abstractmethod
    def copy_group(self) -> int:
        """Ranks with the same number here hold the same `replicas`."""

    @abstractmethod
    def settle(self, ids: Tensor) -> None:
        """Bring the engine's internal order of sums to its final state, with throw-away passes over ``ids`` (B, T)."""

    def local_state(self) -> list[LocalTensor]:
        """What this rank writes of weights, moments and step counters."""
        return written(self._held(moments=True))

    def load_state(self, read: StateReader, *, moments: bool = True) -> None:
        """Overwrite the weights, and unless told otherwise the optimizer's state, with saved ones."""
        if moments:
            self._allocate_state()
        with torch.no_grad(), peers_may_be_lost():
            for tensor in self._held(moments=moments):
                fill(tensor, read)
            self._after_loading()

    @abstractmethod
    def scaler_state(self) -> dict[str, JSON]:
        """fp16's loss scale and how long it has held; empty for other precisions."""

    @abstractmethod
    def load_scaler_state(self, state: dict[str, JSON]) -> None:
        """Continue with a saved loss scale."""

    @abstractmethod
    def _share_gradients(self, last: bool) -> Any:
        """A context in which gradients are summed over ranks, if this is the time to."""

    @abstractmethod
    def _update(self, accept: Accept) -> Update: ...

    @abstractmethod
    def _held(self, *, moments: bool) -> Iterable[LocalTensor]:
        """Everything this rank holds, also what other ranks hold as well."""

    @abstractmethod
    def _allocate_state(self) -> None:
        """Make the optimizer allocate what a saved state is read into."""

    @abstractmethod
    def _after_loading(self) -> None:
        """Derive what is not saved: 16-bit copies of the weights."""
