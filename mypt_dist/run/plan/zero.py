"""The moments of a step under DeepSpeed's ZeRO, read in DeepSpeed 0.19 and compared in tests with real ranks.

Stages 1 and 2 allocate a bucket when the first gradient is done, fill it, and sum it over ranks in fp32 when it is full
or the pass is over. Stage 3 allocates its bucket once and for all, and keeps weights that it has gathered for as long
as they will soon be used again, in the forward pass together with the buffer that they came in.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mypt_dist.run.plan.passes import Pass
from mypt_dist.run.plan.peak import Need, Step, held_at, named, with_done
from mypt_dist.run.plan.states import FP32, Layout, Parameter, largest


def partitioned(parameters: Sequence[Parameter], layout: Layout, traced: Pass, step: Step) -> Iterator[Need]:
    """The moments of a step. ``traced``: with weights in the type of computation, without autocast."""
    if layout.topology.zero_stage == 3:
        return _gathering(parameters, layout, traced)
    return _reducing(parameters, layout, traced, step)


def offload_buffers(parameters: Sequence[Parameter], layout: Layout, step: Step) -> int:
    """Bytes of host memory that offloading takes besides the states."""
    topology = layout.topology
    if not topology.offload_optimizer or topology.zero_stage == 3:
        return 0
    elements = sum(p.elements for p in parameters)
    # The new weights on their way back, the largest gradient on its way here, and what accumulates.
    accumulated = -(-elements // topology.ranks) if step.micro_batches > 1 and topology.zero_stage == 2 else 0
    return (-(-elements // topology.ranks) + max(p.elements for p in parameters) + accumulated) * layout.compute


def _reducing(parameters: Sequence[Parameter], layout: Layout, traced: Pass, step: Step) -> Iterator[Need]:
    states, compute, zero = largest(parameters, layout).device, layout.compute, layout.zero
    elements = sum(p.elements for p in parameters)
    capacity = zero.bucket_for(elements)
    bucket = capacity * compute * (2 if zero.overlap else 1)
    whole = elements * compute if layout.topology.zero_stage == 1 else 0
    always, several = held_at(states), step.micro_batches > 1
    if layout.topology.offload_optimizer:
        always = replace(always, buffers=max(p.elements for p in parameters) * compute)
    for moment, done in with_done(traced):
        now = replace(always, when=named(moment, traced), activations=moment.live)
        if moment.stage == "forward":
            # Between passes stage 1 keeps whole gradients and the bucket, stage 2 its partition.
            between = (whole or states.gradients) if several else 0
            yield replace(now, gradients=between, buffers=now.buffers + (bucket if several and whole else 0))
        else:
            beside = whole if whole and several else states.gradients if several else min(whole, done)
            there = done > 0 or (several and whole > 0)
            yield replace(now, gradients=beside, buffers=now.buffers + (bucket if there else 0))
    # 16-bit gradients are joined, and turned into fp32 to be summed.
    summed = min(capacity, elements) * (compute + FP32) if compute != FP32 else 0
    earlier = states.gradients if several and not whole else 0
    yield replace(always, when="end of the backward pass", gradients=earlier, buffers=always.buffers + bucket + summed)
    flat = _largest_part(parameters, layout) * (FP32 + (compute if compute != FP32 else 0))
    on_host = layout.topology.offload_optimizer
    yield replace(always, when="update", gradients=states.gradients, activations=0 if on_host else flat)


def _largest_part(parameters: Sequence[Parameter], layout: Layout) -> int:
    """Elements of the largest optimizer group's partition: groups are updated one by one."""
    sizes: defaultdict[int, int] = defaultdict(int)
    for p in parameters:
        sizes[p.optimizer_group] += p.elements
    return -(-max(sizes.values()) // layout.topology.ranks)


def _gathering(parameters: Sequence[Parameter], layout: Layout, traced: Pass) -> Iterator[Need]:
    states, compute, zero = largest(parameters, layout).device, layout.compute, layout.zero
    elements = sum(p.elements for p in parameters)
    capacity = zero.bucket_for(elements)
    sharded = sum(p.elements for p in parameters if p.elements > zero.persistent)
    # A weight is used again in the backward pass, after all later weights were used twice.
    gathered = min(sharded, zero.live, zero.reuse // 2 + zero.prefetch) * compute
    arriving = min(sharded, zero.prefetch) * compute
    always = replace(held_at(states), gradients=states.gradients, buffers=capacity * FP32)
    for moment, _ in with_done(traced):
        now = replace(always, when=named(moment, traced), activations=moment.live, gathered=gathered)
        yield replace(now, buffers=always.buffers + (arriving if moment.stage == "forward" else 0))
    summed = min(capacity, elements) * FP32 * (2 if compute != FP32 else 1)
    yield replace(always, when="end of the backward pass", buffers=always.buffers + summed)
    on_host = layout.topology.offload_optimizer
    update = 0 if on_host else _largest_part(parameters, layout) * FP32
    yield replace(always, when="update", activations=update)
