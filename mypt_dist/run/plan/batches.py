"""How a run's batch is dealt out, how much it reads, how much it computes and how long that takes: arithmetic only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mypt_dist.data.config import DataConfig
from mypt_dist.data.curriculum import Measure, planned
from mypt_dist.data.loader import BatchShape
from mypt_dist.data.order import Windows


@dataclass(frozen=True, slots=True)
class SourceAmount:
    """How much there is of a source, and how much of it the run reads."""

    name: str
    weight: float
    samples: int
    """Windows that the run reads."""
    tokens: int | None
    """To learn from. Null: there is no dataset."""
    windows: int | None
    """Of an epoch; null where nobody knows, or where there is none."""
    epochs: float | None
    """How often the run reads it."""


@dataclass(frozen=True, slots=True)
class Batches:
    """A step and a run in numbers."""

    batch_size: int
    """Windows of a step, over all ranks."""
    ranks: int
    micro_batch: int
    """Windows of one forward pass of one rank."""
    accumulation: int
    """Forward passes of one rank in a step."""
    context: int
    steps: int
    flops_per_token: int
    sources: tuple[SourceAmount, ...]

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context

    @property
    def total_tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def flops_per_step(self) -> int:
        """Over all ranks."""
        return self.tokens_per_step * self.flops_per_token

    @property
    def total_flops(self) -> int:
        return self.steps * self.flops_per_step


def batches(shape: BatchShape, steps: int, flops_per_token: int, sources: Sequence[SourceAmount]) -> Batches:
    """What follows from a checked `BatchShape`."""
    return Batches(
        batch_size=shape.per_step,
        ranks=shape.ranks,
        micro_batch=shape.micro_batch,
        accumulation=shape.micro_batches,
        context=shape.context,
        steps=steps,
        flops_per_token=flops_per_token,
        sources=tuple(sources),
    )


def amounts(
    config: DataConfig,
    tokens: Mapping[str, int | None],
    samples: int,
    measure: Measure,
    *,
    packed: Collection[str] = (),
) -> list[SourceAmount]:
    """What a run of ``samples`` windows reads of each source.

    ``tokens``: null where nobody knows. ``packed``: sources whose windows are rows. Raises `ConfigError` for phases or
    limits that make no sense.
    """
    windows = {name: windows_of(count, measure.context, rows=name in packed) for name, count in tokens.items()}
    consumed = planned(config, measure, windows, samples)
    return [
        SourceAmount(name, weight, consumed[name], tokens[name], count, consumed[name] / count if count else None)
        for (name, weight), count in zip(config.own_weights().items(), windows.values(), strict=True)
    ]


def windows_of(tokens: int | None, context: int, *, rows: bool) -> int | None:
    """Windows of an epoch; null where nobody knows, or where there is none."""
    if tokens is None or tokens <= context:
        return None
    return Windows.of(tokens, context, rows=rows and tokens % (context + 1) == 0).count


def seconds(run: Batches, tokens_per_second: float) -> float:
    """Time to finish at a rate over all ranks."""
    return run.total_tokens / tokens_per_second


def tokens_per_second(run: Batches, peak_flops: float, utilisation: float) -> float:
    """The rate of all ranks, each of which reaches ``utilisation`` of a peak in FLOP/s."""
    return run.ranks * peak_flops * utilisation / run.flops_per_token
