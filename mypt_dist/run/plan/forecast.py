"""What one rank needs, for a model, a micro-batch and a way of sharing: the pieces of this package put together."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from mypt_dist.errors import ConfigError
from mypt_dist.launch import Topology
from mypt_dist.run.plan.passes import Numerics, Pass, survey, trace
from mypt_dist.run.plan.peak import Need, Step, peak, replicated
from mypt_dist.run.plan.process import cpu_process, gpu_process
from mypt_dist.run.plan.sharded import fully_sharded
from mypt_dist.run.plan.states import Layout, Parameter, States, ZeroSettings, largest
from mypt_dist.run.plan.zero import offload_buffers, partitioned

if TYPE_CHECKING:
    from mypt_dist.models import ModelConfig
    from mypt_dist.run.config import RunConfig

Device: TypeAlias = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Way:
    """What may be changed about a run without changing what it learns."""

    topology: Topology
    micro_batch: int
    """Windows of one forward pass of one rank."""
    micro_batches: int
    """Forward passes of one rank in a step."""
    checkpointing: bool = False
    """``model.activation_checkpointing``."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the fullest rank needs."""

    way: Way
    device: Device
    states: States
    need: Need
    """At the fullest moment of a step, in the device's memory."""
    host: int
    """Bytes that are kept in host memory instead. On a CPU that is the same memory."""
    process: int
    """Bytes besides tensors."""

    @property
    def tensors(self) -> int:
        """The most bytes of tensors where the rank computes: what torch's own counter of a GPU's memory shows."""
        return self.need.total + (self.host if self.device == "cpu" else 0)

    @property
    def total(self) -> int:
        """Bytes of the GPU's memory, or of the process on a CPU."""
        return self.tensors + self.process


@dataclass
class Forecaster:
    """Forecasts for one run. What was traced once is not traced again."""

    config: "RunConfig"
    """With its vocabulary settled."""
    device: Device
    zero: ZeroSettings = field(default_factory=ZeroSettings)
    base: int = 0
    """CPU: resident bytes of a process that is about to build its model."""
    _surveys: tuple[tuple[Parameter, ...], int] | None = None
    _passes: dict[tuple[int, bool, Numerics], Pass] = field(default_factory=dict)

    def __call__(self, way: Way) -> Forecast:
        """Raises `ConfigError` where the engine would refuse the run."""
        self._refuse(way.topology)
        layout, parameters = self.layout(way.topology), self.parameters
        step = Step(way.micro_batches, self.config.train.hold_gradients, self._survey()[1])
        need = peak(self._needs(way, layout, step))
        states = largest(parameters, layout)
        host = states.host.total + (offload_buffers(parameters, layout, step) if layout.topology.zero_stage else 0)
        tensors = need.total + (host if self.device == "cpu" else 0)
        half = self.config.train.precision != "fp32"
        process = (
            gpu_process(way.topology, tensors)
            if self.device == "gpu"
            else cpu_process(parameters, layout, tensors, self.base, half=half)
        )
        return Forecast(way, self.device, states, need, host, process)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of the run's model, with its optimizer's state."""
        return self._survey()[0]

    def layout(self, topology: Topology) -> Layout:
        """How the run's states are laid out under ``topology``."""
        sharded = topology.is_fsdp or topology.zero_stage > 0
        return Layout(topology, 2 if sharded and self.config.train.precision != "fp32" else 4, self.zero)

    def copies(self, topology: Topology) -> int:
        """Bytes of the 16-bit copies of fp32 weights that autocast makes for matrix products."""
        if self.layout(topology).compute == 2 or self.config.train.precision == "fp32":
            return 0
        return sum(p.elements * 2 for p in self.parameters if p.multiplied)

    def traced(self, way: Way) -> Pass:
        """A micro-batch's pass in the types that the engine computes in."""
        layout = self.layout(way.topology)
        half = self.config.train.precision != "fp32"
        numerics = Numerics("16-bit" if layout.compute == 2 else "fp32", half and not way.topology.zero_stage)
        key = (way.micro_batch, way.checkpointing, numerics)
        if key not in self._passes:
            model = self._model(way.checkpointing)
            documents = self.config.data.document_mask
            gpu = self.device == "gpu"
            self._passes[key] = trace(model, way.micro_batch, numerics, gpu=gpu, documents=documents)
        return self._passes[key]

    def _needs(self, way: Way, layout: Layout, step: Step) -> Iterator[Need]:
        traced = self.traced(way)
        if way.topology.is_fsdp:
            return fully_sharded(self.parameters, layout, traced, step, gloo=self.device == "cpu")
        if way.topology.zero_stage:
            return partitioned(self.parameters, layout, traced, step)
        return replicated(self.parameters, layout, traced, step)

    def _survey(self) -> tuple[tuple[Parameter, ...], int]:
        if self._surveys is None:
            self._surveys = survey(self.config.model, self.config.optimizer, self.config.train.freeze)
        return self._surveys

    def _model(self, checkpointing: bool) -> "ModelConfig":
        return self.config.model.model_copy(update={"activation_checkpointing": checkpointing})

    def _refuse(self, topology: Topology) -> None:
        optimizer, train = self.config.optimizer.type_name(), self.config.train
        if topology.zero_stage and optimizer == "muon":
            raise ConfigError("optimizer.type: muon does not go with ZeRO, which cuts matrices: use DDP or FSDP2")
        if topology.zero_stage and train.freeze:
            raise ConfigError("train.freeze does not go with ZeRO: use DDP or FSDP2")
        if topology.zero_stage and train.precision == "fp8":
            raise ConfigError("train.precision: fp8 does not go with ZeRO: use bf16, or FSDP2 or DDP")
        if topology.zero_stage and train.hold_gradients:
            raise ConfigError("train.hold_gradients: true: ZeRO decides itself; remove it or use FSDP2")
