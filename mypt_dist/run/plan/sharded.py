"""The moments of a step under FSDP2: what `fully_shard` gathers, reduces and frees, and when.

Read in torch 2.13 (`torch.distributed.fsdp._fully_shard`) and Accelerate 1.15 (`fsdp2_prepare_model`), and compared
in tests with passes of real ranks. A unit is gathered into a flat buffer and copied out of it; the forward pass keeps
the buffer of one unit until the next one is gathered, the backward pass gathers the next one ahead. A unit's gradients
are copied to a flat fp32 buffer, reduced, and freed; that buffer stays until the next unit's reduction.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mypt_dist.run.plan.passes import Moment, Pass
from mypt_dist.run.plan.peak import Need, Step, held_at, named
from mypt_dist.run.plan.states import FP32, Layout, Parameter, largest, padded_elements


@dataclass(frozen=True, slots=True)
class UnitSize:
    """A unit of parameters that are gathered together."""

    place: int
    stays: bool
    """Not freed after its forward pass."""
    shard: int
    """Elements on each rank, padding included."""
    whole: int
    """Bytes of all ranks' shards in the type of computation."""
    gradient: int
    """Bytes of the whole gradient in that type."""
    cast: int
    """Bytes of the shard in that type, if it is another than the shard's."""
    flat: int
    """Bytes of all ranks' gradients in fp32, padding included."""
    reduced: int
    """Bytes of this rank's share of them."""


def fully_sharded(
    parameters: Sequence[Parameter], layout: Layout, traced: Pass, step: Step, *, gloo: bool
) -> Iterator[Need]:
    """The moments of a step. ``traced``: with weights in the type of computation.

    ``gloo``: ranks talk over gloo, which copies what it reduces.
    """
    states = largest(parameters, layout).device
    units = _units(parameters, layout)
    always = held_at(states)
    if step.micro_batches > 1:
        always = replace(always, gradients=states.gradients)
        if step.hold_gradients:
            whole = sum(p.elements for p in parameters) * FP32
            always = replace(always, gradients=states.gradients + whole)
    moments: defaultdict[tuple[str, int], list[Moment]] = defaultdict(list)
    for moment in traced.moments:
        moments[moment.stage, moment.place].append(moment)
    yield from _forward(always, units, moments, traced)
    yield from _backward(always, units, moments, traced, (step.micro_batches == 1, gloo))
    yield replace(held_at(states), when="update", gradients=states.gradients, activations=step.update)


def _units(parameters: Sequence[Parameter], layout: Layout) -> list[UnitSize]:
    """In the order in which the forward pass gathers them."""
    topology, compute = layout.topology, layout.compute
    members: defaultdict[tuple[bool, int, str], list[Parameter]] = defaultdict(list)
    for p in parameters:
        members[p.unit != "root", p.place, p.unit].append(p)
    units = []
    for (_, place, kind), unit in sorted(members.items()):
        shard = sum(padded_elements(p, topology.shards) for p in unit)
        trained = sum(padded_elements(p, topology.shards) for p in unit if p.trained)
        whole = shard * topology.shards * compute
        units.append(
            UnitSize(
                place=place,
                stays=kind in ("root", "tail") or not topology.reshard_after_forward,
                shard=shard,
                whole=whole,
                gradient=sum(p.elements for p in unit if p.trained) * compute,
                cast=shard * compute if compute != FP32 else 0,
                flat=trained * topology.shards * FP32,
                reduced=trained * FP32,
            )
        )
    return units


Moments = defaultdict[tuple[str, int], list[Moment]]


def _forward(always: Need, units: list[UnitSize], moments: Moments, traced: Pass) -> Iterator[Need]:
    gathered = buffer = 0
    for place in range(traced.last + 1):
        here = [unit for unit in units if unit.place == place]
        for unit in here:
            first = moments["forward", place][0]
            coming = replace(always, when=named(first, traced), activations=first.before)
            yield replace(coming, gathered=gathered, buffers=buffer + unit.whole + unit.cast)
            buffer, gathered = unit.whole, gathered + unit.whole
            yield replace(coming, gathered=gathered, buffers=buffer)
        for moment in moments["forward", place]:
            yield replace(
                always, when=named(moment, traced), activations=moment.live, gathered=gathered, buffers=buffer
            )
        gathered -= sum(unit.whole for unit in here if not unit.stays)


def _backward(
    always: Need, units: list[UnitSize], moments: Moments, traced: Pass, how: tuple[bool, bool]
) -> Iterator[Need]:
    """``how``: whether gradients' shards come into being here, else they are there from an earlier pass; and gloo."""
    shares, gloo = how
    gathered = sum(unit.whole for unit in units if unit.stays)
    waiting = 0
    for place in range(traced.last, -1, -1):
        here = [unit for unit in units if unit.place == place]
        again = sum(unit.whole for unit in here if not unit.stays)
        ahead = [unit for unit in units if unit.place == place - 1 and not unit.stays]
        coming, cast = sum(unit.whole for unit in ahead), sum(unit.cast for unit in ahead)
        first, *_ = own = moments["backward", place]
        entering = replace(always, when=named(first, traced), activations=first.before, gathered=gathered + again)
        yield replace(entering, buffers=again + waiting)
        yield replace(entering, buffers=coming + cast + waiting)
        gathered += again
        for moment in own:
            now = replace(entering, activations=moment.live, gathered=gathered, buffers=coming + waiting)
            yield replace(now, gradients=always.gradients + moment.held)
        after = moments["backward", place - 1][0].before if place else 0
        for unit in here:
            gathered -= unit.whole
            yield replace(
                entering,
                activations=after,
                gradients=always.gradients + unit.gradient + unit.reduced,
                gathered=gathered,
                buffers=coming + unit.flat * (2 if gloo else 1),
            )
            waiting = unit.flat
            if shares:
                always = replace(always, gradients=always.gradients + unit.reduced)
