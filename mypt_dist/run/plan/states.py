"""Weights, master weights, gradients and optimizer state of one rank, exact to the byte: pure functions of numbers.

How each engine lays them out is its library's decision. What is written here was read in torch 2.13 and DeepSpeed 0.19
and is compared in tests with the live tensors of real ranks.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mypt_dist.launch import Topology

if TYPE_CHECKING:
    from mypt_dist.launch.deepspeed_file import ZeroSection

FP32 = 4
"""Bytes of an element."""

Unit: TypeAlias = Literal["root", "embed", "block", "tail"]
"""What FSDP2 gathers at once: a block, an untied embedding, the final norm with the head (and a tied embedding), and
the root, which has everything else."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; a tied one stands once."""

    name: str
    shape: tuple[int, ...]
    place: int
    """The number of its block from 1. 0: used before the blocks, or before and after them. Else used after them."""
    unit: Unit
    moments: int
    """Bytes of optimizer state for each element."""
    counters: int
    """Bytes of optimizer state for the whole parameter, wherever its elements are."""
    optimizer_group: int
    multiplied: bool = True
    """Whether it belongs to a matrix product."""
    trained: bool = True
    """Whether it has a gradient and, by that, moments."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


LARGEST_BUCKET = 50_000_000
"""Elements of ZeRO's buckets for gradients, unless a model has fewer or DeepSpeed's own file says something else."""


@dataclass(frozen=True, slots=True)
class ZeroSettings:
    """What DeepSpeed leaves to its user, with the engine's or its own defaults. Sizes in elements."""

    bucket: int | None = None
    """``reduce_bucket_size``: gradients that are summed over ranks at once. Null: the engine decides."""
    overlap: bool = False
    """``overlap_comm``: fill a second bucket meanwhile."""
    prefetch: int = 50_000_000
    """``stage3_prefetch_bucket_size``: weights that are gathered ahead of their use."""
    reuse: int = 1_000_000_000
    """``stage3_max_reuse_distance``: weights are kept if they are used again before as many others are."""
    live: int = 1_000_000_000
    """``stage3_max_live_parameters``: weights that are whole at a time."""
    persistent: int = 100_000
    """``stage3_param_persistence_threshold``: smaller parameters are always whole."""
    sub_group: int = 1_000_000_000
    """``sub_group_size``: of a partition that is updated at once."""

    @classmethod
    def of(cls, section: "ZeroSection | None") -> "ZeroSettings":
        """What DeepSpeed's own file says, where it says something."""
        if section is None:
            return cls()
        said: dict[str, Any] = {
            "bucket": section.reduce_bucket_size,
            "overlap": section.overlap_comm,
            "prefetch": section.stage3_prefetch_bucket_size,
            "reuse": section.stage3_max_reuse_distance,
            "live": section.stage3_max_live_parameters,
            "persistent": section.stage3_param_persistence_threshold,
            "sub_group": section.sub_group_size,
        }
        return replace(cls(), **{name: value for name, value in said.items() if value is not None})

    def bucket_for(self, elements: int) -> int:
        """Elements of the bucket of a model of so many."""
        return min(LARGEST_BUCKET, elements + elements % 2) if self.bucket is None else self.bucket


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of one kind of memory."""

    weights: int = 0
    masters: int = 0
    """fp32 weights besides 16-bit ones, or besides the flat ones of ZeRO."""
    gradients: int = 0
    """When they are all done, just before the update."""
    optimizer: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.masters + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True)
class States:
    """What one rank holds. On a CPU, where device and host are the same memory, both count."""

    device: Bytes
    host: Bytes = Bytes()


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that decides how the states of a run are laid out."""

    topology: Topology
    compute: int = FP32
    """Bytes of an element of the weights in matrix products: 4, or 2 for 16-bit ones."""
    zero: ZeroSettings = ZeroSettings()


def states(parameters: Sequence[Parameter], layout: Layout, rank: int = 0) -> States:
    """What ``rank`` holds. Rank 0 never holds less than another, but for ZeRO's gradients, see `largest`."""
    topology = layout.topology
    if topology.is_fsdp:
        return _fully_sharded(parameters, topology, rank % topology.shards)
    if topology.zero_stage == 3:
        return _zero3(parameters, layout)
    if topology.zero_stage:
        return _zero12(parameters, layout, rank)
    elements = sum(p.elements for p in parameters)
    return States(
        Bytes(
            weights=elements * FP32,
            gradients=sum(p.elements for p in parameters if p.trained) * FP32,
            optimizer=sum(p.elements * p.moments + p.counters for p in parameters),
        )
    )


def largest(parameters: Sequence[Parameter], layout: Layout) -> States:
    """What the rank holds that holds most."""
    ranks = range(layout.topology.shards) if layout.topology.zero_stage in (1, 2) else range(1)
    return max((states(parameters, layout, rank) for rank in ranks), key=lambda held: held.device.total)


def rows(parameter: Parameter, shards: int, rank: int) -> int:
    """Rows of ``parameter`` on ``rank``, as `torch.chunk` deals them out: later ranks may have fewer, or none."""
    count = parameter.shape[0]
    each = -(-count // shards)
    return max(0, min(each, count - each * rank))


def padded_elements(parameter: Parameter, shards: int) -> int:
    """Elements of one of FSDP2's shards: as many on every rank, zeros where rows are missing."""
    return -(-parameter.shape[0] // shards) * (parameter.elements // parameter.shape[0])


def _fully_sharded(parameters: Iterable[Parameter], topology: Topology, rank: int) -> States:
    shards = topology.shards
    weights = gradients = moments = 0
    for p in parameters:
        weights += padded_elements(p, shards) * FP32
        gradients += padded_elements(p, shards) * FP32 if p.trained else 0
        # The optimizer makes its state like the rows that are there, without padding.
        moments += rows(p, shards, rank) * (p.elements // p.shape[0]) * p.moments + p.counters
    # Gradients are views of the flat result of a reduce-scatter, padding included.
    held = Bytes(weights=weights, gradients=gradients, optimizer=moments)
    return States(Bytes(), held) if topology.offload_parameters else States(held)


def _zero12(parameters: Sequence[Parameter], layout: Layout, rank: int) -> States:
    topology, compute = layout.topology, layout.compute
    whole = masters = moments = touched = 0
    for group in _groups(parameters):
        elements = sum(p.elements for p in group)
        # Partitions start at multiples of 4 bytes, so the whole is padded to two elements for each rank.
        flat = -(-elements // (2 * topology.ranks)) * 2 * topology.ranks
        part = flat // topology.ranks
        whole += flat * compute
        masters += part * FP32
        moments += part * group[0].moments + group[0].counters
        touched += sum(p.elements for p in _touching(group, part * rank, part * (rank + 1)))
    if topology.offload_optimizer:
        return States(Bytes(weights=whole), Bytes(masters=masters, gradients=masters, optimizer=moments))
    # Whole gradients of all parameters that have an element in the partition.
    return States(Bytes(weights=whole, masters=masters, gradients=touched * compute, optimizer=moments))


def _zero3(parameters: Sequence[Parameter], layout: Layout) -> States:
    topology, compute, zero = layout.topology, layout.compute, layout.zero
    part = moments = 0
    for group in _groups(parameters):
        for sub_group in _sub_groups(group, topology.ranks, zero.sub_group):
            elements = sum(-(-p.elements // topology.ranks) for p in sub_group)
            part += elements
            moments += elements * group[0].moments + group[0].counters
    whole = sum(p.elements for p in parameters if p.elements <= zero.persistent) * compute
    shards = Bytes(weights=part * compute)
    # On the host, where the optimizer needs them in fp32, gradients are kept in both types.
    gradient = compute + (FP32 if topology.offload_optimizer else 0)
    update = Bytes(masters=part * FP32, gradients=part * gradient, optimizer=moments)
    device, host = Bytes(weights=whole), Bytes()
    device, host = (device, _sum(host, shards)) if topology.offload_parameters else (_sum(device, shards), host)
    device, host = (device, _sum(host, update)) if topology.offload_optimizer else (_sum(device, update), host)
    return States(device, host)


def _sum(a: Bytes, b: Bytes) -> Bytes:
    return Bytes(a.weights + b.weights, a.masters + b.masters, a.gradients + b.gradients, a.optimizer + b.optimizer)


def _groups(parameters: Iterable[Parameter]) -> list[list[Parameter]]:
    groups: defaultdict[int, list[Parameter]] = defaultdict(list)
    for p in parameters:
        groups[p.optimizer_group].append(p)
    return [groups[number] for number in sorted(groups)]


def _touching(group: Iterable[Parameter], begin: int, end: int) -> Iterable[Parameter]:
    """The parameters with an element in [begin, end) of their group's flat tensor."""
    start = 0
    for p in group:
        if begin < start + p.elements and start < end:
            yield p
        start += p.elements


def _sub_groups(group: Sequence[Parameter], ranks: int, limit: int) -> list[list[Parameter]]:
    parts: list[list[Parameter]] = [[]]
    filled = 0
    for p in group:
        if filled >= limit:
            parts.append([])
            filled = 0
        parts[-1].append(p)
        filled += -(-p.elements // ranks)
    return parts
