"""From which sample on do which weights hold? The course of a run: stretches of constant weights, one after another.

A stretch is a sample number and whole quotas, so a checkpoint can record it as integers. Each counts its own samples
from zero: from its first one on, every source is within one sample of its share of the stretch. What sources gave
before is carried on, so that a source goes on where it was, whatever its weight has become.

The course is a function of weights, phases, caps and of the stretches that a run has behind it. It does not depend on
when it is asked for: the course that a resumed run lays out goes on as that of an undisturbed one.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mypt_dist.data.interleave import Interleave, interleave, quotas

Ending: TypeAlias = Literal["stop", "drop", "error"]


@dataclass(frozen=True, slots=True)
class Phase:
    """Weights that hold for a part of a run."""

    until: int
    """The first sample that no longer belongs to it."""
    weights: Mapping[str, float]
    """Of the sources that take part: at least one is positive."""


@dataclass(frozen=True, slots=True)
class Cap:
    """How much of a source may be read over the whole run."""

    samples: int
    then: Ending
    """``drop``: others share its weight from the next sample on. ``stop`` and ``error``: the course ends where one more
    of its samples would be due."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a run has behind it."""

    samples: int = 0
    stretches: tuple[tuple[int, Mapping[str, int]], ...] = ()
    """First sample and quotas of each."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples of constant weights."""

    first: int
    quota: Mapping[str, int]
    """Samples of each source in a period."""
    before: Mapping[str, int]
    """What every source that ever was had given before it."""
    turns: Interleave

    @classmethod
    def begin(cls, first: int, quota: Mapping[str, int], before: Mapping[str, int]) -> "Stretch":
        """The stretch that starts with sample ``first``."""
        known = {**before, **{name: before.get(name, 0) for name in quota}}
        return cls(first, dict(quota), known, interleave(tuple(quota.values())))

    def consumed(self, samples: int) -> dict[str, int]:
        """How many of the first ``samples`` samples of the run came from each source."""
        mine = self.turns.consumed(samples - self.first)
        return {**self.before, **{n: self.before[n] + count for n, count in zip(self.quota, mine, strict=True)}}

    def find(self, name: str, number: int) -> int:
        """Which sample of the run is number ``number`` of source ``name``? It must not lie before the stretch."""
        return self.first + self.turns.find(list(self.quota).index(name), number - self.before[name])


@dataclass(frozen=True, slots=True)
class End:
    """Where there is nothing more to read."""

    sample: int
    """The first one that there is not."""
    sources: tuple[str, ...]
    """Whose caps end the course."""
    then: Literal["stop", "error"]

    def __str__(self) -> str:
        keys = ", ".join(f"data.sources.{name}" for name in self.sources)
        return f"{keys} {'is' if len(self.sources) == 1 else 'are'} exhausted"


@dataclass(frozen=True, slots=True)
class Course:
    """All stretches of a run, past and to come."""

    stretches: tuple[Stretch, ...]
    end: End | None = None

    def cut(self, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Samples ``first`` … ``end - 1`` by stretches: number of the stretch, first sample, one behind the last."""
        at = self._at(first)
        while at + 1 < len(self.stretches) and self.stretches[at + 1].first < end:
            yield at, first, self.stretches[at + 1].first
            at, first = at + 1, self.stretches[at + 1].first
        yield at, first, end

    def consumed(self, samples: int) -> dict[str, int]:
        """How many of the first ``samples`` samples of the run came from each source, those that are gone included."""
        if not self.stretches:
            return {}
        return self.stretches[self._at(samples)].consumed(samples)

    def past(self, samples: int) -> Past:
        """What a run has behind it after ``samples`` samples."""
        return Past(samples, tuple((s.first, s.quota) for s in self.stretches if s.first < samples))

    def _at(self, sample: int) -> int:
        """Number of the stretch that ``sample`` belongs to."""
        return max(0, bisect_right(self.stretches, sample, key=lambda stretch: stretch.first) - 1)


def lay_out(
    weights: Mapping[str, float],
    phases: Sequence[Phase] = (),
    caps: Mapping[str, Cap] | None = None,
    past: Past | None = None,
) -> Course:
    """The course of a run: ``past`` as it was, then ``phases`` in turn, then ``weights``, within ``caps``.

    A source without a positive weight takes no part. The course ends early if a cap says so, or if all sources of a
    phase have been dropped.
    """
    caps, past = caps or {}, past or Past()
    found = list(remembered(past).stretches)
    at = past.samples
    while True:
        phase = next((phase for phase in phases if phase.until > at), None)
        before = found[-1].consumed(at) if found else {}
        named = phase.weights if phase else weights
        active = {
            name: w for name, w in named.items() if w > 0 and not _is_dropped(caps.get(name), before.get(name, 0))
        }
        if not active:
            return Course(tuple(found), End(at, tuple(named), "stop"))
        quota = dict(zip(active, quotas(list(active.values())), strict=True))
        if not found or found[-1].quota != quota:
            found.append(Stretch.begin(at, quota, before))
        end = _end(found[-1], caps, at)
        changes = [*([phase.until] if phase else []), *_drops(found[-1], caps)]
        if not changes or (end and end.sample < min(changes)):
            return Course(tuple(found), end)
        at = min(changes)


def remembered(past: Past) -> Course:
    """The stretches of ``past`` alone."""
    found: list[Stretch] = []
    for first, quota in past.stretches:
        found.append(Stretch.begin(first, quota, found[-1].consumed(first) if found else {}))
    return Course(tuple(found))


def _is_dropped(cap: Cap | None, consumed: int) -> bool:
    return cap is not None and cap.then == "drop" and consumed >= cap.samples


def _drops(stretch: Stretch, caps: Mapping[str, Cap]) -> list[int]:
    """Samples with which a source of the stretch is dropped: those after its last."""
    return [
        stretch.find(name, cap.samples - 1) + 1
        for name, cap in caps.items()
        if cap.then == "drop" and name in stretch.quota
    ]


def _end(stretch: Stretch, caps: Mapping[str, Cap], at: int) -> End | None:
    """Where a source of the stretch would first be read beyond its cap, from sample ``at`` on."""
    consumed = stretch.consumed(at)
    ends = [
        End(stretch.find(name, max(cap.samples, consumed[name])), (name,), cap.then)
        for name, cap in caps.items()
        if cap.then != "drop" and name in stretch.quota
    ]
    return min(ends, key=lambda end: end.sample, default=None)
