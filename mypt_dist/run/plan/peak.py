"""The fullest moment of a step: states, activations, gathered weights and buffers, put together for each engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mypt_dist.run.plan.passes import Moment, Pass
from mypt_dist.run.plan.states import Bytes, Layout, Parameter, largest


@dataclass(frozen=True, slots=True)
class Step:
    """What one rank does between two updates."""

    micro_batches: int
    """Forward and backward passes."""
    hold_gradients: bool = False
    """FSDP2: keep whole gradients until the last of them."""
    update: int = 0
    """Bytes that the optimizer needs for itself."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of a rank at one moment of a step, on the device where it computes."""

    when: str
    weights: int = 0
    masters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    """And everything temporary, 16-bit copies of fp32 weights included."""
    gathered: int = 0
    """Whole weights of what is sharded."""
    buffers: int = 0
    """Of communication between ranks."""

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.masters
            + self.gradients
            + self.optimizer
            + self.activations
            + self.gathered
            + self.buffers
        )


def peak(needs: Iterator[Need]) -> Need:
    """The fullest of them."""
    return max(needs, key=lambda need: need.total)


def held_at(done: Bytes) -> Need:
    """Weights, master weights and optimizer state, which are always there."""
    return Need("always", weights=done.weights, masters=done.masters, optimizer=done.optimizer)


def replicated(parameters: Sequence[Parameter], layout: Layout, traced: Pass, step: Step) -> Iterator[Need]:
    """The moments of a step of one process, or of DDP.

    DDP has a place for every gradient in its buckets. A pass that is not the step's last accumulates beside them.
    """
    states = largest(parameters, layout).device
    always, whole = held_at(states), states.gradients
    in_buckets = whole if layout.topology.engine == "ddp" else 0
    for moment, done in with_done(traced):
        beside = _beside_buckets(step.micro_batches, moment, whole, done) if in_buckets else 0
        # What was traced trains everything.
        accumulated = in_buckets + beside if in_buckets else whole if step.micro_batches > 1 else min(done, whole)
        yield replace(always, when=named(moment, traced), gradients=accumulated, activations=moment.live)
    yield replace(always, when="update", gradients=whole, activations=step.update)


def _beside_buckets(micro_batches: int, moment: Moment, whole: int, done: int) -> int:
    if micro_batches == 1:
        return 0
    if micro_batches > 2 or moment.stage == "forward":
        return whole
    # Of two, the first pass fills what the last one empties into the buckets.
    return max(done, whole - done)


def with_done(traced: Pass) -> Iterator[tuple[Moment, int]]:
    """Each moment with the bytes of gradients that are done by then, in the type of the weights that were traced."""
    earlier, place = 0, traced.last
    at_place = 0
    for moment in traced.moments:
        if moment.stage == "forward":
            yield moment, 0
            continue
        if moment.place != place:
            earlier, at_place, place = earlier + at_place, 0, moment.place
        at_place = moment.held
        yield moment, earlier + moment.held


def named(moment: Moment, traced: Pass) -> str:
    """Where in a step that is, for people."""
    if moment.place == 0:
        where = "embedding"
    elif moment.place == traced.last:
        where = "head and loss"
    else:
        where = f"block {moment.place}"
    return f"{moment.stage} pass, {where}"
