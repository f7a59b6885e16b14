"""The plan of a run: what each rank needs, how the batch is dealt out, how long it takes, and whether it fits."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mypt_dist.data.curriculum import Measure, over_limits
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.launch import Topology
from mypt_dist.models.layers.cross_entropy import CHUNK_ELEMENTS
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.plan.batches import Batches, amounts, batches, seconds, tokens_per_second
from mypt_dist.run.plan.buffers import buffers, logits_chunk
from mypt_dist.run.plan.forecast import Device, Forecast, Forecaster, Way
from mypt_dist.run.plan.options import FULL, Option, options
from mypt_dist.run.plan.process import saved_share
from mypt_dist.run.plan.states import ZeroSettings

if TYPE_CHECKING:
    from mypt_dist.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Machine:
    """What a rank computes on."""

    device: Device = "cpu"
    base: int = 0
    """CPU: resident bytes of a process that is about to build its model."""
    memory: int | None = None
    """Bytes that a rank may use. Null: nobody said."""
    tokens_per_second: float | None = None
    """Of all ranks, as measured."""
    peak_flops: float | None = None
    """Of one rank."""
    utilisation: float = 0.4
    """Share of the peak that training reaches."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `mypt plan` tells."""

    name: str
    precision: str
    parameters: int
    frozen: int
    """Of the parameters."""
    forecast: Forecast
    batches: Batches
    buffers: dict[str, int]
    chunk_tokens: int
    chunk_bytes: int
    """Of the logits of one chunk, in fp32."""
    copies: int
    """16-bit copies of fp32 weights, which autocast makes and activations count."""
    tokens_per_second: float | None
    seconds: float | None
    memory: int | None
    options: tuple[Option, ...]
    """What would make it fit, if it does not."""
    remarks: tuple[str, ...]

    @property
    def share(self) -> float | None:
        """Of the memory that the forecast takes."""
        return None if self.memory is None else self.forecast.total / self.memory

    @property
    def fits(self) -> bool | None:
        """Null: nobody said how much memory there is."""
        return None if self.share is None else self.share <= FULL

    def to_json(self) -> dict[str, Any]:
        """For programs: bytes, tokens, seconds."""
        forecast = self.forecast
        return {
            "name": self.name,
            "precision": self.precision,
            "parameters": self.parameters,
            "frozen_parameters": self.frozen,
            "topology": asdict(forecast.way.topology),
            "device": forecast.device,
            "memory": {
                "total": forecast.total,
                "tensors": forecast.tensors,
                "process": forecast.process,
                "host": forecast.host,
                "peak": asdict(forecast.need),
                "states": asdict(forecast.states),
                "buffers": self.buffers,
                "logits_chunk": {"tokens": self.chunk_tokens, "bytes": self.chunk_bytes},
                "weight_copies": self.copies,
                "limit": self.memory,
                "share": self.share,
                "fits": self.fits,
            },
            "batch": {
                **asdict(self.batches),
                "tokens_per_step": self.batches.tokens_per_step,
                "total_tokens": self.batches.total_tokens,
                "flops_per_step": self.batches.flops_per_step,
                "total_flops": self.batches.total_flops,
            },
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
            "options": [
                {"change": o.change, "total": o.forecast.total, "fits": self.memory is not None and o.fits(self.memory)}
                for o in self.options
            ],
            "remarks": list(self.remarks),
        }


@dataclass
class _Data:
    """What is known of the datasets without opening a shard."""

    tokens: dict[str, int | None] = field(default_factory=dict)
    packed: set[str] = field(default_factory=set)
    """Sources of conversations packed in rows."""
    vocabulary: int | None = None
    remarks: list[str] = field(default_factory=list)


def plan_run(
    config: "RunConfig",
    topology: Topology,
    machine: Machine,
    zero: ZeroSettings = ZeroSettings(),  # noqa: B008
) -> Plan:
    """Look ahead. Reads manifests of datasets, and nothing else.

    Raises `ConfigError` where the batch cannot be shared, where the engine would refuse the run, or where nobody knows
    the model's vocabulary.
    """
    data = _read(config)
    config = _with_vocabulary(config, data)
    shape = batch_shape(config.train, config.model.context, 0, topology.ranks)
    forecaster = Forecaster(config, machine.device, zero, machine.base)
    way = Way(topology, shape.micro_batch, shape.micro_batches, config.model.activation_checkpointing)
    forecast = forecaster(way)
    run = batches(
        shape,
        config.train.steps,
        _flops_per_token(config),
        amounts(
            config.data,
            data.tokens,
            config.train.steps * config.train.batch_size,
            Measure(config.train.batch_size, config.model.context),
            packed=data.packed,
        ),
    )
    rows, chunk = logits_chunk(shape.micro_batch * shape.context, config.model.rows, CHUNK_ELEMENTS)
    rate = _rate(run, machine)
    too_full = machine.memory is not None and forecast.total > FULL * machine.memory
    return Plan(
        name=config.name,
        precision=config.train.precision,
        parameters=sum(p.elements for p in forecaster.parameters),
        frozen=sum(p.elements for p in forecaster.parameters if not p.trained),
        forecast=forecast,
        batches=run,
        buffers=buffers(forecaster.parameters, forecaster.layout(topology)),
        chunk_tokens=rows,
        chunk_bytes=chunk,
        copies=forecaster.copies(topology),
        tokens_per_second=rate,
        seconds=None if rate is None else seconds(run, rate),
        memory=machine.memory,
        options=tuple(options(forecaster, way, machine.memory, shape.per_step)) if machine.memory and too_full else (),
        remarks=(
            *data.remarks,
            *_remarks(config, run, machine.device),
            *_saving(config, saved_share(forecaster.parameters, topology.ranks)),
        ),
    )


def _read(config: "RunConfig") -> _Data:
    found = _Data()
    for name, source in config.data.named_sources().items():
        found.tokens[name] = None
        try:
            manifest = read_manifest(source.path)
        except (ConfigError, DataError) as error:
            found.remarks.append(f"source {name}: {str(error).splitlines()[0].partition(';')[0]}")
        else:
            found.tokens[name] = manifest.splits.train.tokens
            length, context = manifest.row_length, config.model.context
            if length is not None:
                found.packed.add(name)
                if length != context + 1:
                    found.remarks.append(
                        f"source {name}: packed for model.context={length - 1}, not {context}: refused"
                    )
            found.vocabulary = found.vocabulary or manifest.vocab_size
    return found


def _with_vocabulary(config: "RunConfig", data: _Data) -> "RunConfig":
    if config.model.vocab_size is None and data.vocabulary is None:
        raise ConfigError(
            "\n".join(
                [
                    "model.vocab_size is null, and no dataset tells a vocabulary: give model.vocab_size=N",
                    *(f"  {remark}" for remark in data.remarks),
                ]
            )
        )
    return config.with_vocabulary(data.vocabulary or 0)


def _flops_per_token(config: "RunConfig") -> int:
    import torch  # noqa: PLC0415 - reports are read without it

    with torch.device("meta"):
        return config.model.build().flops_per_token(config.model.context)


def _rate(run: Batches, machine: Machine) -> float | None:
    if machine.tokens_per_second is not None or machine.peak_flops is None:
        return machine.tokens_per_second
    return tokens_per_second(run, machine.peak_flops, machine.utilisation)


def _remarks(config: "RunConfig", run: Batches, device: Device) -> list[str]:
    found = []
    windows = {source.name: source.windows for source in run.sources}
    for name, epochs in over_limits(config.data, windows, {s.name: s.samples for s in run.sources}).items():
        cap = config.data.named_sources()[name].epochs
        found.append(f"source {name} would be read {epochs:.2f} times, max_epochs is {cap:g}: refused")
    if config.train.compile:
        found.append("train.compile: forecast without it; compiled blocks keep less")
    if config.train.freeze:
        found.append(
            "train.freeze: activations are forecast as if everything were trained; a frozen beginning keeps less"
        )
    if config.train.precision == "fp8":
        found.append("train.precision: fp8 is forecast as bf16")
    if device == "gpu":
        found.append(
            "CUDA's context, NCCL and the allocator's cache are assumed, not measured: see docs/how-to/plan.md"
        )
    return found


def _saving(config: "RunConfig", share: int) -> list[str]:
    if not config.checkpoints.background:
        return []
    return [
        f"from its first save on, a rank holds {share / 2**30:.2f} GiB more of host memory: the copy that is written "
        "while training goes on (checkpoints.background: false does without)"
    ]
