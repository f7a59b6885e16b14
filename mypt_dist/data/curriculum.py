"""The course of a run as its ``data`` section asks for it: steps, tokens and epochs become sample numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from mypt_dist.data.config import DataConfig, PhaseConfig
from mypt_dist.data.course import Cap, Course, Ending, Past, Phase, lay_out
from mypt_dist.data.interleave import ROUNDED_PERIOD, is_exact
from mypt_dist.errors import ConfigError

MORE_DATA = "raise the source's max_epochs, or choose exhausted: repeat, drop or stop"


@dataclass(frozen=True, slots=True)
class Measure:
    """What turns a run's units into samples."""

    batch_size: int
    """Samples of a step, over all ranks."""
    context: int
    """Targets of a sample."""


def course_of(
    config: DataConfig, measure: Measure, windows: Mapping[str, int | None], past: Past | None = None
) -> Course:
    """The course behind ``past``. ``windows``: of an epoch of each source; null where nobody knows, without a limit.

    Raises `ConfigError` for phases that do not follow each other, for a limit below one window, and where nothing at
    all is left to read.
    """
    course = lay_out(config.own_weights(), _phases(config, measure), _caps(config, windows), past)
    if not course.stretches or course.stretches[-1].quota.keys() - config.named_sources().keys():
        raise ConfigError("data.sources: nothing is left to read, all of them are exhausted: raise a max_epochs")
    return course


def planned(
    config: DataConfig, measure: Measure, windows: Mapping[str, int | None], samples: int, past: Past | None = None
) -> dict[str, int]:
    """Samples of each source in a run of ``samples`` samples, if no limit were an ``error``. Raises as `course_of`."""
    caps = {name: cap for name, cap in _caps(config, windows).items() if cap.then != "error"}
    course = lay_out(config.own_weights(), _phases(config, measure), caps, past)
    consumed = course.consumed(min(samples, course.end.sample) if course.end else samples)
    return {name: consumed.get(name, 0) for name in config.named_sources()}


def over_limits(config: DataConfig, windows: Mapping[str, int | None], consumed: Mapping[str, int]) -> dict[str, float]:
    """Epochs of the sources that are read more often than is allowed, where that is an ``error``."""
    return {
        name: consumed[name] / (windows[name] or 1)
        for name, cap in _caps(config, windows).items()
        if cap.then == "error" and consumed[name] > cap.samples
    }


def check_limits(config: DataConfig, windows: Mapping[str, int | None], consumed: Mapping[str, int]) -> None:
    """Raise one `ConfigError` for all sources that a run would read more often than allowed."""
    sources = config.named_sources()
    over = [
        f"  data.sources.{name}.max_epochs: {sources[name].epochs:g}, but the run reads it {epochs:.2f} times"
        for name, epochs in over_limits(config, windows, consumed).items()
    ]
    if over:
        raise ConfigError("\n".join([*over, f"lower train.steps or the source's weight, or {MORE_DATA}"]))


def rounded(config: DataConfig) -> list[str]:
    """The weights that cannot be kept exactly, by key, and how exactly they are."""
    tables = {"data.sources": config.own_weights(), **{_key(n): p.weights for n, p in enumerate(config.phases)}}
    return [
        f"{key}: the weights are kept to 1 in {ROUNDED_PERIOD:,}; with fewer digits they would be exact"
        for key, weights in tables.items()
        if not is_exact([weight for weight in weights.values() if weight])
    ]


def _phases(config: DataConfig, measure: Measure) -> list[Phase]:
    found: list[Phase] = []
    order = list(config.named_sources())
    for number, phase in enumerate(config.phases):
        until = _until(phase, measure)
        if found and until <= found[-1].until:
            raise ConfigError(
                f"{_key(number)} ends at sample {until:,}, where the phase before it has ended already (at "
                f"{found[-1].until:,}): give each phase a later end"
            )
        found.append(Phase(until, {name: phase.weights[name] for name in order if name in phase.weights}))
    return found


def _until(phase: PhaseConfig, measure: Measure) -> int:
    if phase.until_step is not None:
        return phase.until_step * measure.batch_size
    return -(-(phase.until_tokens or 0) // measure.context)


def _caps(config: DataConfig, windows: Mapping[str, int | None]) -> dict[str, Cap]:
    found = {}
    for name, source in config.named_sources().items():
        epochs, length = source.epochs, windows[name]
        if epochs is None or length is None:
            continue
        samples = int(Fraction(str(epochs)) * length)
        then = source.exhausted or "error"
        if samples == 0 and then != "error":
            raise ConfigError(
                f"data.sources.{name}.max_epochs: {epochs:g} of {length:,} windows is less than one: raise it, or give "
                "the source no weight"
            )
        found[name] = Cap(samples, cast("Ending", then))
    return found


def _key(number: int) -> str:
    return f"data.phases.{number}"
