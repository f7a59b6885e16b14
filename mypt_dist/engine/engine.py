"""The ranks of a run, and the engine that a launch file chose, behind the few verbs that a run needs."""

import atexit
import os
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from typing import Literal, TypeAlias

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer

from mypt_dist.engine import fully_sharded
from mypt_dist.engine.host import HostGroup
from mypt_dist.engine.host_memory import keep_freed_memory
from mypt_dist.engine.precision import fp8_recipe, require_precision
from mypt_dist.engine.rendezvous import meeting
from mypt_dist.engine.replicated import Replicated
from mypt_dist.engine.timeouts import set_timeout
from mypt_dist.engine.trainable import StepRecipe, Trainable
from mypt_dist.errors import ConfigError
from mypt_dist.launch.environment import refuse_contradictions, topology_from_environ
from mypt_dist.world import JSON

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "fp8"]

START_TIMEOUT_S = 1800.0
"""Ranks start, read and compile at different speeds. Once they run, `Engine.let_wait` says what is enough."""


class Engine:
    """Ranks, devices, precision and sharding. Implements `mypt_dist.world.World`.

    Raises `ConfigError` if the launch file contradicts the run file or the world is not the one it promises, and
    `LostPeerError` if not all ranks come.
    """

    def __init__(
        self, *, precision: Precision = "fp32", deterministic: bool = False, timeout_s: float = START_TIMEOUT_S
    ) -> None:
        """``timeout_s``: seconds after which a peer that is silent in a collective counts as lost."""
        refuse_contradictions(precision, os.environ)
        self.topology = topology_from_environ(os.environ)
        cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        require_precision(precision, cpu=cpu, zero_stage=self.topology.zero_stage)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if cpu:
            keep_freed_memory()
        self._timeout = timedelta(seconds=timeout_s)
        with meeting(os.environ):
            self._accelerator = self._connect(precision, cpu)
        connected = self.size
        if connected != self.topology.ranks:
            self.close()
            raise ConfigError(
                f"the launcher promised {self.topology.ranks} ranks, but only {connected} are connected: "
                "start with mypt launch, accelerate launch or torchrun, see launch/README.md"
            )
        with meeting(os.environ):
            self._host = HostGroup(self.size)
        # A group that is made without one gets torch's own.
        self.let_wait(timeout_s)

    @property
    def name(self) -> str:
        """What shares the model: ``single``, ``ddp``, ``fsdp2``, ``hsdp``, ``zero1``, ``zero2`` or ``zero3``."""
        return self.topology.engine

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

    def let_wait(self, seconds: float) -> None:
        """From now on a peer that is silent for so long in a collective of this rank counts as lost."""
        set_timeout(seconds)

    def prepare(self, model: nn.Module, optimizer: Optimizer, recipe: StepRecipe) -> Trainable:
        """Place, cast, replicate or shard. Raises `ConfigError` if the optimizer cannot work on such shards."""
        if self.topology.is_fsdp:
            fully_sharded.require_sharding(self._accelerator)
            return fully_sharded.FullySharded(self._accelerator, model, optimizer, recipe)
        if self.topology.zero_stage:
            from mypt_dist.engine.zero import Zero  # noqa: PLC0415 - DeepSpeed takes seconds to load

            return Zero(self._accelerator, model, optimizer, recipe)
        return Replicated(self._accelerator, model, optimizer, recipe)

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

    def _connect(self, precision: Precision, cpu: bool) -> Accelerator:
        mixed = {"fp32": "no"}.get(precision, precision)
        if self.topology.zero_stage:
            return self._connect_zero(precision, mixed, cpu)
        group = InitProcessGroupKwargs(timeout=self._timeout)
        handlers = [group, fp8_recipe()] if precision == "fp8" else [group]
        if not self.topology.is_fsdp:
            handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True))
            accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=handlers)
            if self.topology.engine == "single":
                # Under a launcher it would wrap even a lone rank in DDP, whose buckets cost a second gradient.
                AcceleratorState._shared_state["distributed_type"] = DistributedType.NO
            return accelerator
        if cpu:
            PartialState(cpu=True, **group.to_kwargs())
            fully_sharded.let_cpu_ranks_shard()
        fully_sharded.quiet()
        return Accelerator(
            cpu=cpu,
            mixed_precision=mixed,
            fsdp_plugin=fully_sharded.plugin(self.topology, precision),
            parallelism_config=fully_sharded.mesh_sizes(self.topology),
            kwargs_handlers=handlers,
        )

    def _connect_zero(self, precision: Precision, mixed: str, cpu: bool) -> Accelerator:
        if cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
            # It would make Accelerate forget DeepSpeed.
            os.environ.pop("ACCELERATE_USE_CPU", None)
        from mypt_dist.engine import zero  # noqa: PLC0415 - DeepSpeed takes seconds to load

        zero.quiet()
        zero.do_not_compile()
        # Without the backend's name each process on a CPU would think it is alone.
        backend = "gloo" if cpu else None
        group = InitProcessGroupKwargs(backend=backend, timeout=self._timeout)
        plugin = zero.plugin(precision)
        # It prints, on the stream that a program's results go to, that it has built something.
        with redirect_stdout(StringIO()):
            return Accelerator(mixed_precision=mixed, deepspeed_plugin=plugin, kwargs_handlers=[group])


@atexit.register
def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
