"""How often does a run read its data, and is that enough? Arithmetic on tokens alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mypt_dist.data.course import Course
from mypt_dist.data.curriculum import Measure

VERDICTS = ((0.5, "very low"), (1.0, "low"), (2.0, "below recommended"), (5.0, "good"), (10.0, "high"))
"""Of ratios below so much; the last two bounds belong to their verdicts. MyPT's thresholds."""

TARGETS = (2.0, 3.5, 5.0)
"""Ratios that steps are told for: the bounds of what is good, and the middle."""


def verdict(ratio: float) -> str:
    """What to think of data that is read ``ratio`` times."""
    for bound, name in VERDICTS:
        if ratio < bound or (ratio == bound and bound >= 5):
            return name
    return "very high"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Covered:
    """Tokens that there are, and tokens that are read of them over the whole run."""

    tokens: int
    read: int

    @property
    def ratio(self) -> float:
        return self.read / self.tokens

    def to_json(self) -> dict[str, Any]:
        """With ratio and verdict."""
        return {"tokens": self.tokens, "read": self.read, "ratio": self.ratio, "verdict": verdict(self.ratio)}


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a run reads of its data from its first step to its last, whatever it was resumed with."""

    steps: int
    """Of the whole run, as far as the data goes."""
    tokens_per_step: int
    done: Progress
    """What of it is behind."""
    read_so_far: int
    """Tokens of the present sources."""
    sources: Mapping[str, Covered]
    exhausted: str | None
    """Why it ends before its last step, if it does."""

    @property
    def whole(self) -> Covered:
        """All sources together."""
        parts = self.sources.values()
        return Covered(sum(part.tokens for part in parts), sum(part.read for part in parts))

    def steps_for(self, ratio: float) -> int:
        """Steps of the whole run after which its data has been read ``ratio`` times; those that are done at least."""
        left = ratio * self.whole.tokens - self.read_so_far
        return self.done.step + max(0, math.ceil(left / self.tokens_per_step))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "steps": self.steps,
            "steps_done": self.done.step,
            "tokens_per_step": self.tokens_per_step,
            **self.whole.to_json(),
            "sources": {name: part.to_json() for name, part in self.sources.items()},
            "steps_for": {f"{ratio:g}": self.steps_for(ratio) for ratio in TARGETS},
            "exhausted": self.exhausted,
        }


def coverage_of(course: Course, measure: Measure, tokens: Mapping[str, int], steps: int, done: Progress) -> Coverage:
    """Of a run of ``steps`` steps that stands at ``done``. ``tokens``: to learn from, of each present source."""
    end = done.samples + max(0, steps - done.step) * measure.batch_size
    limit = course.end
    if limit and limit.sample < end:
        whole_steps = max(0, limit.sample - done.samples) // measure.batch_size
        steps, end = done.step + whole_steps, done.samples + whole_steps * measure.batch_size
    else:
        limit = None
    read, so_far = course.consumed(end), course.consumed(done.samples)
    return Coverage(
        steps=steps,
        tokens_per_step=measure.batch_size * measure.context,
        done=done,
        read_so_far=sum(so_far.get(name, 0) for name in tokens) * measure.context,
        sources={name: Covered(count, read.get(name, 0) * measure.context) for name, count in tokens.items()},
        exhausted=str(limit) if limit else None,
    )
