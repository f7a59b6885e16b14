"""What ranks send each other is laid out in, and how much of the logits is there at once: pure functions of numbers."""

from collections import defaultdict
from collections.abc import Sequence

from mypt_dist.run.plan.states import FP32, Layout, Parameter, padded_elements

FIRST_DDP_BUCKET, DDP_BUCKET = 1 << 20, 25 << 20
"""Bytes at which DDP closes its first and each later bucket: torch's defaults."""


def ddp_buckets(parameters: Sequence[Parameter]) -> list[int]:
    """Bytes of DDP's buckets, filled in the order in which gradients come: about that of the parameters, reversed."""
    buckets: list[int] = []
    filled, limit = 0, FIRST_DDP_BUCKET
    for p in reversed(parameters):
        filled += p.elements * FP32
        if filled >= limit:
            buckets.append(filled)
            filled, limit = 0, DDP_BUCKET
    return [*buckets, filled] if filled else buckets


def buffers(parameters: Sequence[Parameter], layout: Layout) -> dict[str, int]:
    """The engine's buffers of communication by name, in bytes; none for one process."""
    topology = layout.topology
    elements = sum(p.elements for p in parameters)
    if topology.engine == "ddp":
        sizes = ddp_buckets(parameters)
        return {"gradient buckets": sum(sizes), "largest gradient bucket": max(sizes)}
    if topology.is_fsdp:
        units = _units(parameters, layout)
        largest, block = max(units.values()), max(size for (kind, _), size in units.items() if kind == "block")
        return {
            "all-gather of a block": block * layout.compute,
            "reduce-scatter of a block": block * FP32,
            "all-gather of the largest unit": largest * layout.compute,
            "reduce-scatter of the largest unit": largest * FP32,
        }
    if topology.zero_stage:
        kept = FP32 if topology.zero_stage == 3 else layout.compute * (2 if layout.zero.overlap else 1)
        return {"reduce bucket": layout.zero.bucket_for(elements) * kept}
    return {}


def largest_message(parameters: Sequence[Parameter], layout: Layout) -> int:
    """Bytes of gradients, in fp32, that ranks sum at once; 0 for one process."""
    topology = layout.topology
    if topology.ranks == 1:
        return 0
    if topology.engine == "ddp":
        return max(ddp_buckets(parameters))
    if topology.is_fsdp:
        return max(_units(parameters, layout).values()) * FP32
    elements = sum(p.elements for p in parameters)
    return min(elements, layout.zero.bucket_for(elements)) * FP32


def _units(parameters: Sequence[Parameter], layout: Layout) -> dict[tuple[str, int], int]:
    """Elements of FSDP2's units, padding included."""
    shards = layout.topology.shards
    units: defaultdict[tuple[str, int], int] = defaultdict(int)
    for p in parameters:
        units[p.unit, p.place] += padded_elements(p, shards) * shards
    return units


def logits_chunk(tokens: int, vocabulary: int, chunk_elements: int) -> tuple[int, int]:
    """Tokens of a chunk of the loss, and the bytes of its logits in fp32."""
    rows = min(tokens, max(1, chunk_elements // vocabulary))
    return rows, rows * vocabulary * FP32
