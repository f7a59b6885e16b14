"""One model on many machines: what a rank needs under every engine and number of ranks, and what generating needs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mypt_dist.config import load_mapping, validate
from mypt_dist.errors import ConfigError
from mypt_dist.launch import EngineName, Topology
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.config import RunConfig
from mypt_dist.run.plan.forecast import Forecast, Forecaster, Way
from mypt_dist.run.plan.inference import Inference, Serving, inference
from mypt_dist.run.plan.process import DEEPSPEED
from mypt_dist.run.sizes import model_sizes
from mypt_dist.training.config import TrainConfig, divisors

if TYPE_CHECKING:
    from mypt_dist.run.plan.forecast import Device

SHARING: tuple[EngineName, ...] = ("ddp", "zero1", "zero2", "fsdp2", "zero3")
"""Engines of several ranks, by how much they share. For hsdp, which needs replicas, see `mypt plan`."""


@dataclass(frozen=True, slots=True)
class Training:
    """A rank of one engine, or why there is none."""

    engine: EngineName
    ranks: int
    forecast: Forecast | None
    refusal: str = ""

    def to_json(self) -> dict[str, Any]:
        """For programs: bytes."""
        told = {"engine": self.engine, "ranks": self.ranks, "refusal": self.refusal or None}
        if self.forecast is None:
            return told
        one = self.forecast
        return {
            **told,
            "micro_batch": one.way.micro_batch,
            "accumulation": one.way.micro_batches,
            "peak": asdict(one.need),
            "host": one.host,
            "process": one.process,
            "tensors": one.tensors,
            "total": one.total,
        }


@dataclass(frozen=True, slots=True)
class Memory:
    """What `mypt memory` tells."""

    name: str
    parameters: int
    precision: str
    batch_size: int
    context: int
    vocabulary: str
    device: "Device"
    training: tuple[Training, ...]
    generating: tuple[Inference, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs: bytes."""
        own = {key: getattr(self, key) for key in ("name", "parameters", "precision", "batch_size", "context")}
        return {
            **own,
            "vocabulary": self.vocabulary,
            "device": self.device,
            "training": [one.to_json() for one in self.training],
            "generating": [{**asdict(one), "tensors": one.tensors, "total": one.total} for one in self.generating],
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """Which machines and which generations."""

    engines: Sequence[EngineName] = SHARING
    ranks: Sequence[int] = (1, 2, 4, 8)
    batches: Sequence[int] = (1, 8)
    tokens: Sequence[int] = ()
    """Lengths of a row. None given: the context."""
    device: "Device" = "gpu"
    base: int = 0
    """CPU: resident bytes of a process that is about to build its model."""


def memory_table(name: str, overrides: Sequence[str], asked: Asked) -> Memory:
    """Of a run file, or of a preset, which need not say what it trains on or for how long. Raises `ConfigError`."""
    sizes = model_sizes(name, overrides)
    config = _filled_in(name, overrides).model_copy(update={"model": sizes.config})
    forecaster = Forecaster(config, asked.device)
    ways: list[tuple[EngineName, int]] = []
    for ranks in asked.ranks:
        ways += [("single", 1)] if ranks == 1 else [(engine, ranks) for engine in asked.engines]
    # 16-bit weights are of use on a GPU alone: a CPU generates in fp32.
    types = (False, True) if asked.device == "gpu" else (False,)
    generating = (
        inference(config.model, batch, tokens, Serving(asked.device, half, asked.base))
        for half in types
        for tokens in asked.tokens or (config.model.context,)
        for batch in asked.batches
    )
    return Memory(
        name=config.name if config.name != "run" else sizes.name,
        parameters=sizes.formula.parameters,
        precision=config.train.precision,
        batch_size=config.train.batch_size,
        context=config.model.context,
        vocabulary=sizes.because,
        device=asked.device,
        training=tuple(_training(forecaster, *way, asked) for way in dict.fromkeys(ways)),
        generating=tuple(generating),
    )


def _filled_in(name: str, overrides: Sequence[str]) -> RunConfig:
    """A preset is a run file but for its data and steps, which make no difference to memory."""
    mapping = load_mapping(name, overrides)
    mapping.setdefault("data", {"path": "data"})
    mapping["train"] = {"steps": 1, **mapping.get("train", {})}
    return validate(RunConfig, mapping, name).with_sources()


def _training(forecaster: Forecaster, engine: EngineName, ranks: int, asked: Asked) -> Training:
    topology, config = Topology(engine, ranks), forecaster.config
    forecaster.base = asked.base + (DEEPSPEED if topology.zero_stage else 0)
    try:
        shape = batch_shape(_dealt(config.train, ranks), config.model.context, 0, ranks)
        way = Way(topology, shape.micro_batch, shape.micro_batches, config.model.activation_checkpointing)
        return Training(engine, ranks, forecaster(way))
    except ConfigError as error:
        return Training(engine, ranks, None, str(error).splitlines()[0])


def _dealt(train: TrainConfig, ranks: int) -> TrainConfig:
    """The same with a micro-batch that divides the share of a rank: the largest that is no larger."""
    share, rest = divmod(train.batch_size, ranks)
    if rest or not share or train.micro_batch is None:
        return train
    fitting = max(size for size in divisors(share) if size <= train.micro_batch)
    return train.model_copy(update={"micro_batch": fitting})
