"""One process, or DDP: every rank holds everything."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mypt_dist.engine.host import peers_may_be_lost
from mypt_dist.engine.placement import LocalTensor, allocate_state
from mypt_dist.engine.rng import rng_state, set_rng_state
from mypt_dist.engine.trainable import Accept, StepRecipe, Trainable, Update
from mypt_dist.world import JSON


class Accelerated(Trainable):
    """What engines have in common whose parameters stay parameters of torch's own optimizer."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, recipe: StepRecipe) -> None:
        self._accelerator, self._recipe = accelerator, recipe
        # Together, because FSDP2 exchanges the parameters in both; never a loader, never a scheduler.
        self.model, self._optimizer = accelerator.prepare(model, optimizer)

    @property
    def module(self) -> nn.Module:
        # Accelerate's own unwrapping would load DeepSpeed first, for seconds, to see whether the model is one of its.
        model: nn.Module = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        return model

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        return groups

    def backward(self, loss: Tensor) -> None:
        # Gradients are averaged over ranks: the factor makes a sum of it.
        self._accelerator.backward(loss * self._accelerator.num_processes)

    def scaler_state(self) -> dict[str, JSON]:
        scaler = self._accelerator.scaler
        if scaler is None:
            return {}
        state = scaler.state_dict()
        return {"scale": float(state["scale"]), "steps_since_change": int(state["_growth_tracker"])}

    def load_scaler_state(self, state: dict[str, JSON]) -> None:
        scaler = self._accelerator.scaler
        if scaler is not None and state:
            settings = scaler.state_dict()
            saved = {"scale": state["scale"], "_growth_tracker": state["steps_since_change"]}
            scaler.load_state_dict({**settings, **saved})

    def settle(self, ids: Tensor) -> None:
        """Nothing: the order of sums is final from the start."""

    def _after_loading(self) -> None:
        """Nothing: what is computed with is cast from what was loaded."""

    def _update(self, accept: Accept) -> Update:
        clipped = self._accelerator.clip_grad_norm_(self.model.parameters(), self._recipe.max_norm)
        norm = float(clipped.full_tensor() if hasattr(clipped, "full_tensor") else clipped)
        scaler = self._accelerator.scaler
        # An overflow is the scaler's business: it leaves out the step itself, and halves its scale.
        accepted = accept(norm) or (scaler is not None and not math.isfinite(norm))
        if accepted:
            self._optimizer.step()
        elif scaler is not None:
            scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return Update(norm, skipped=not accepted or self._optimizer.step_was_skipped)

    def _allocate_state(self) -> None:
        allocate_state(self._optimizer.optimizer)

    def _named_state(self, *, moments: bool) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that a run needs to go on, under its logical name. A tied weight stands once."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for name, parameter in self.module.named_parameters():
            yield f"model/{name}", parameter.detach()
        if moments:
            for owner, state in self._optimizer.state.items():
                for key, value in state.items():
                    yield f"optimizer/{key}/{names[id(owner)]}", value.detach()


class Replicated(Accelerated):
    """One process or DDP (Li et al., 2020, arXiv:2006.15704)."""

    def settle(self, ids: Tensor) -> None:
        """Lay out DDP's gradient buckets for good.

        The first step after a start sums gradients in the buckets as first laid out, later ones in the rebuilt ones.
        At four ranks that differs in the last bit, so a resumed run would not be exact. Done on every start alike.
        """
        if self._accelerator.num_processes == 1:
            return
        before = rng_state()
        for _ in range(2):
            with peers_may_be_lost():
                self.backward(self.model(ids, labels=ids) / ids.numel())
            self._optimizer.zero_grad(set_to_none=True)
        set_rng_state(before)

    def replicas(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.module.parameters()]

    @property
    def copy_group(self) -> int:
        return 0

    def _share_gradients(self, last: bool) -> AbstractContextManager[None]:
        waiting: AbstractContextManager[None] = nullcontext() if last else self._accelerator.no_sync(self.model)
        return waiting

    def _held(self, *, moments: bool) -> Iterator[LocalTensor]:
        rank, ranks = self._accelerator.process_index, self._accelerator.num_processes
        for name, tensor in self._named_state(moments=moments):
            yield LocalTensor(name, tuple(tensor.shape), 0, tensor.view(-1), rank, ranks)
