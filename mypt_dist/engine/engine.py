"""One process or DDP, on CPU or GPU, behind the few verbs that the loop needs."""

import atexit
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Literal, TypeAlias

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.optim import Optimizer

from mypt_dist.engine.host import HostGroup, peers_may_be_lost
from mypt_dist.engine.host_memory import keep_freed_memory
from mypt_dist.engine.placement import LocalTensor, StateReader, deal, fill, named_state
from mypt_dist.engine.rng import rng_state, set_rng_state
from mypt_dist.engine.topology import expected_world_size, refuse_contradictions
from mypt_dist.errors import ConfigError
from mypt_dist.world import JSON

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""After this a silent peer counts as lost. Saving and compiling on one rank must fit in."""


class Engine:
    """Ranks, devices, precision and replication. Implements `mypt_dist.world.World`.

    Raises `ConfigError` if the launch file contradicts the run file or the world is not the one it promises.
    """

    def __init__(self, *, precision: Precision = "fp32", deterministic: bool = False) -> None:
        refuse_contradictions(precision)
        cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        if precision == "fp16" and cpu:
            raise ConfigError("train.precision: fp16 needs a GPU; on a CPU use bf16 or fp32")
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if cpu:
            keep_freed_memory()
        self._accelerator = Accelerator(
            cpu=cpu,
            mixed_precision={"fp32": "no"}.get(precision, precision),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
        connected = self.size
        if connected != expected_world_size():
            self.close()
            raise ConfigError(
                f"the launcher promised {expected_world_size()} ranks, but only {connected} are connected: "
                "start with accelerate launch or torchrun, see launch/README.md"
            )
        self._host = HostGroup(self.size)

    @property
    def name(self) -> str:
        """What replicates the model: ``single`` or ``ddp``."""
        return "ddp" if self.size > 1 else "single"

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def size(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        device: torch.device = self._accelerator.device
        return device

    def sum(self, *values: float) -> list[float]:
        """Sum each value over all ranks, host to host: no accelerator waits for it."""
        return self._host.sum(*values)

    def all_gather(self, value: JSON) -> list[JSON]:
        """Every rank's value, in rank order, on every rank; also a barrier."""
        return self._host.all_gather(value)

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Place, cast and replicate. Model and optimizer together; never a loader, never a scheduler."""
        prepared: tuple[nn.Module, Optimizer] = self._accelerator.prepare(model, optimizer)
        return prepared

    def unwrapped(self, model: nn.Module) -> nn.Module:
        """The model itself, still cast: for forward passes in which ranks take no part in each other's work."""
        inner: nn.Module = self._accelerator.unwrap_model(model)
        return inner

    @contextmanager
    def accumulate(self, model: nn.Module, *, last: bool) -> Iterator[None]:
        """Hold gradient synchronisation back until the last micro-batch of the step."""
        waiting: AbstractContextManager[None] = nullcontext() if last else self._accelerator.no_sync(model)
        with waiting, peers_may_be_lost():
            yield

    def backward(self, loss: Tensor) -> None:
        """``loss`` is this rank's share of the step's mean: the shares of all ranks add up to it."""
        self._accelerator.backward(loss * self.size if self.size > 1 else loss)

    def update(self, model: nn.Module, optimizer: Optimizer, max_norm: float) -> Tensor:
        """Clip, step and clear. Returns the gradient's norm before clipping, on the device."""
        norm: Tensor = self._accelerator.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def settle(self, model: nn.Module, optimizer: Optimizer, ids: Tensor) -> None:
        """Lay out DDP's gradient buckets for good, by throw-away passes over ``ids`` (B, T).

        The first step after a start sums gradients in the buckets as first laid out, later ones in the rebuilt ones.
        At four ranks that differs in the last bit, so a resumed run would not be exact. Done on every start alike.
        """
        if self.size == 1:
            return
        before = rng_state()
        for _ in range(2):
            with peers_may_be_lost():
                self.backward(model(ids.to(self.device)).float().mean())
            optimizer.zero_grad(set_to_none=True)
        set_rng_state(before)

    def local_state(self, model: nn.Module, optimizer: Optimizer) -> list[LocalTensor]:
        """What this rank writes of weights and moments: replicated tensors are dealt out to all ranks by size."""
        state = dict(named_state(self.unwrapped(model), optimizer))
        owner = deal({name: tensor.nbytes for name, tensor in state.items()}, self.size)
        return [
            LocalTensor(name, tuple(tensor.shape), 0, tensor.reshape(-1))
            for name, tensor in state.items()
            if owner[name] == self.rank
        ]

    def load_state(self, model: nn.Module, optimizer: Optimizer | None, read: StateReader) -> None:
        """Overwrite the weights, and the moments if an optimizer is given, with saved ones."""
        inner = self.unwrapped(model)
        with torch.no_grad():
            for name, parameter in inner.named_parameters():
                fill(parameter, f"model/{name}", read)
            if optimizer is not None:
                _create_moments(inner, optimizer)
                for name, tensor in named_state(inner, optimizer):
                    if name.startswith("optimizer/"):
                        fill(tensor, name, read)

    def scaler_state(self) -> dict[str, JSON]:
        """fp16's loss scale; empty for other precisions."""
        scaler = self._accelerator.scaler
        return dict(scaler.state_dict()) if scaler is not None else {}

    def load_scaler_state(self, state: dict[str, JSON]) -> None:
        """Continue with a saved loss scale."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)

    def peak_memory(self) -> int:
        """Bytes: the most this rank allocated on its GPU, or holds resident on a CPU."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    def close(self) -> None:
        """Forget what was prepared. The process group stays: its rendezvous cannot be repeated in one process."""
        self._accelerator.free_memory()
        AcceleratorState._reset_state()
        GradientState._reset_state()


@atexit.register
def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _create_moments(model: nn.Module, optimizer: Optimizer) -> None:
    """Make the optimizer allocate its state, by one update that changes nothing.

    A zero gradient at a zero learning rate leaves every parameter as it is; the state is overwritten afterwards.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
