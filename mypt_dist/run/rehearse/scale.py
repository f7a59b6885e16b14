"""The same run, small: everything that can break is kept, what only takes time is made less. A pure function."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from mypt_dist.config import Config
from mypt_dist.data.place import DatasetPlace
from mypt_dist.errors import ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.optim import OptimizerConfig
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.config import RunConfig
from mypt_dist.run.resume import changed_settings
from mypt_dist.tracking.mlflow_tracker import MlflowConfig
from mypt_dist.training.config import TrainConfig

CONTEXT = 32
LAYERS = 2
HEADS = 2
HEAD_WIDTH = 16
MICRO_BATCH = 2
ACCUMULATION = 4
"""Micro-batches of a rank in a step, at most."""
STEPS = 2000
"""Long enough to be interrupted several times. The acts end a run, not its steps."""
SAVE_EVERY, EVAL_EVERY, EVAL_WINDOWS = 3, 4, 8
PHASE_STEPS = 2
"""Of each phase of a curriculum."""
FLUSH_S = 1.0
"""Seconds that a played run waits for its tracker, which does not answer."""

OUT = Path("shared/run")
"""Seen from the folder of each virtual node, where `shared` leads to one place."""

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class World:
    """Ranks over nodes."""

    ranks: int
    nodes: int

    def __str__(self) -> str:
        return f"{_count(self.ranks, 'rank')} on {_count(self.nodes, 'node')}"


@dataclass(frozen=True, slots=True)
class Scaled:
    """What is played, and in what it differs."""

    config: RunConfig
    changes: Mapping[str, tuple[Any, Any]]
    """By dotted key: the real value and the played one."""


def smaller_world(config: RunConfig, world: World) -> World | None:
    """Where the run would go on without a node, or on one machine without some ranks; null from a single rank.

    Of the numbers of ranks that can share the batch it takes the largest.
    """
    per_node = world.ranks // world.nodes
    # More nodes than ranks are a mistake that is told elsewhere.
    fewer_nodes = [World(per_node * nodes, nodes) for nodes in range(world.nodes - 1, 0, -1) if per_node]
    one_node = [World(ranks, 1) for ranks in range(per_node - 1, 0, -1)]
    return next((found for found in (*fewer_nodes, *one_node) if _shares(config, found.ranks)), None)


def scaled(
    config: RunConfig, world: World, datasets: Mapping[str, DatasetPlace], tracker_uri: str, *, half: bool
) -> Scaled:
    """``config`` made small. ``datasets``: where each source is read; ``tracker_uri``: what MLflow is told instead;
    ``half``: whether the processor has instructions for bf16, without which it takes a hundred times as long.

    Raises `ConfigError` if the real batch cannot be shared by ``world``.
    """
    small = config.model_copy(
        update={
            "out": OUT,
            "extends": (),
            "model": small_model(config.model, config.optimizer, config.train.freeze),
            # It has another shape than what is to be started from.
            "start_from": None,
            "data": _data(config, datasets),
            "evaluation": _changed(config.evaluation, sets={}, answers=None),
            "train": small_train(config, world, half=half),
            "trackers": tuple(_tracker(tracker, tracker_uri) for tracker in config.trackers),
        }
    )
    before = config.model_dump(mode="json", exclude={"about", "extends", "out", "data"})
    after = small.model_dump(mode="json", exclude={"about", "extends", "out", "data"})
    return Scaled(small, changed_settings(before, after))


def small_train(config: RunConfig, world: World, *, half: bool) -> TrainConfig:
    """The same schedule over other steps, as many micro-batches as can be, and a batch that fewer ranks share too."""
    train = config.train
    shape = batch_shape(train, config.model.context, 0, world.ranks)
    micro_batch = min(shape.micro_batch, MICRO_BATCH)
    accumulation = min(shape.micro_batches, ACCUMULATION)
    fewer = smaller_world(config, world)
    # A multiple of both, so that what the real batch allows on a resume the small one allows.
    batch_size = math.lcm(world.ranks * accumulation * micro_batch, (fewer.ranks if fewer else 1) * micro_batch)
    scale = (
        STEPS
        * batch_size
        * min(CONTEXT, config.model.context)
        / (train.steps * train.batch_size * config.model.context)
        if train.schedule.unit == "tokens"
        else STEPS / train.steps
    )
    schedule = {
        **train.schedule.model_dump(),
        "warmup": math.ceil(train.schedule.warmup * scale),
        "decay": train.schedule.decay and math.ceil(train.schedule.decay * scale),
    }
    return _changed(
        train,
        steps=STEPS,
        batch_size=batch_size,
        micro_batch=micro_batch if train.micro_batch else None,
        precision="bf16" if half and train.precision != "fp32" else "fp32",
        schedule=schedule,
        log_every=1,
        eval_every=EVAL_EVERY,
        eval_windows=min(train.eval_windows, EVAL_WINDOWS),
        save_every=SAVE_EVERY,
        stop_after=None,
        compile=False,
    )


def small_model(model: ModelConfig, optimizer: OptimizerConfig, frozen: Sequence[str] = ()) -> ModelConfig:
    """Narrow and short, with as many layers as the rules of ``optimizer`` and the patterns of what is ``frozen`` name.

    What cannot be made small stays.
    """
    narrow = {**_widths(model), "context": min(model.context, CONTEXT)}
    for layers in range(min(LAYERS, model.n_layer), model.n_layer + 1):
        try:
            small = _changed(model, **narrow, n_layer=layers)
        except ValueError:
            return model
        if _rules_match(small, optimizer, frozen):
            return small
    return model


def _widths(model: ModelConfig) -> dict[str, int]:
    """Fewer and narrower heads: as many queries to a key as before, but for two."""
    shared = getattr(model, "n_kv_head", None)
    heads = min(model.n_head, HEADS)
    found: dict[str, int] = {}
    if shared:
        found["n_kv_head"] = min(shared, HEADS)
        heads = found["n_kv_head"] * min(model.n_head // shared, 2)
    if getattr(model, "head_dim", None):
        found["head_dim"] = min(model.head_dim, HEAD_WIDTH)  # type: ignore[attr-defined]  # seen just now
    width = min(model.n_embd, heads * HEAD_WIDTH)
    if getattr(model, "mlp_hidden", None):
        found["mlp_hidden"] = max(8, model.mlp_hidden * width // model.n_embd)  # type: ignore[attr-defined]  # as above
    return {**found, "n_head": heads, "n_embd": width}


def _rules_match(model: ModelConfig, optimizer: OptimizerConfig, frozen: Sequence[str]) -> bool:
    """Whether every rule of the optimizer and every pattern of what is frozen finds its parameters."""
    import torch  # noqa: PLC0415 - only where there are rules

    from mypt_dist.optim.groups import first_matches  # noqa: PLC0415 - as torch

    rules = getattr(optimizer, "groups", ())
    if not rules and not frozen:
        return True
    with torch.device("meta"):
        names = [name for name, _ in model.model_copy(update={"vocab_size": 64}).build().named_parameters()]
    found = all(any(fnmatchcase(name, pattern) for name in names) for pattern in frozen)
    return found and set(first_matches(names, rules).values()) == set(range(len(rules)))


def _data(config: RunConfig, datasets: Mapping[str, DatasetPlace]) -> Any:
    """The same sources where they are, without what depends on the real number of steps: caps and coverage, which are
    looked at beforehand. Phases are short, so that they are played."""
    phases = [
        {"until_step": (number + 1) * PHASE_STEPS, "weights": phase.weights}
        for number, phase in enumerate(config.data.phases)
    ]
    rest = {"phases": phases, "coverage": {"below": "ignore"}}
    if config.data.path is not None:
        return _changed(config.data, path=datasets["main"], **rest)
    sources = {
        name: {**source.model_dump(), "path": datasets[name], "max_epochs": None, "exhausted": None}
        for name, source in config.data.sources.items()
    }
    return _changed(config.data, sources=sources, **rest)


def _tracker(tracker: Any, uri: str) -> Any:
    return _changed(tracker, uri=uri, flush_timeout_s=FLUSH_S) if isinstance(tracker, MlflowConfig) else tracker


def _shares(config: RunConfig, ranks: int) -> bool:
    try:
        batch_shape(config.train, config.model.context, 0, ranks)
    except ConfigError:
        return False
    return True


def _changed(part: C, **update: Any) -> C:
    """A copy that is checked again. Raises ValueError, as pydantic's are."""
    return type(part).model_validate({**part.model_dump(), **update})


def told(changes: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """``train.steps 600000 -> 2000``, for people."""
    for key, (before, now) in changes.items():
        yield f"{key} changed" if isinstance(now, list) else f"{key} {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"
