"""What a process takes besides its tensors: code, heaps, contexts. Measured numbers where there are any."""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from mypt_dist.launch import Topology
from mypt_dist.run.plan.buffers import largest_message
from mypt_dist.run.plan.states import Layout, Parameter

MB = 1_000_000
GIB = 1 << 30

FIRST_USE = {
    "single": 50 * MB,
    "ddp": 52 * MB,
    "fsdp2": 182 * MB,
    "hsdp": 182 * MB,
    "zero1": 95 * MB,
    "zero2": 95 * MB,
    "zero3": 97 * MB,
}
"""By how much a rank of almost no tensors grows between the engine's start and its first update: code that torch,
Accelerate and DeepSpeed load when it is first called. Measured with torch 2.13 on a CPU, two ranks over gloo."""

FIRST_USE_16_BIT = 15 * MB
"""The same of the CPU's 16-bit matrix products."""

FIRST_GENERATION = 43 * MB
"""By how much a process of almost no tensors grows from before its model is loaded to its first generated tokens."""

GENERATION_HOLES, MOST_HOLES = 0.6, 96 * MB
"""Resident memory besides each byte of the activations of a generation: holes in the C library's heap, as for `HEAP`.
What is larger than 32 MiB leaves none, which bounds them. Measured on six presets, 1 to 128 rows: within 8 % in all."""

DEEPSPEED = 138 * MB
"""By how much importing DeepSpeed makes a process larger."""

HEAP = 1.15
"""Resident memory for each byte of the tensors' peak. The C library's heap keeps holes that later tensors do not fit
in. Measured on six presets: 1.05 to 1.3, and up to 1.6 where the loss takes several chunks of 128 MiB; it differs from
run to run."""

GLOO = {"single": 0.0, "ddp": 0.5, "fsdp2": 3.0, "hsdp": 3.0, "zero1": 2.5, "zero2": 2.5, "zero3": 2.5}
"""Resident memory that gloo takes for each byte of the largest message between ranks. Measured: 0 to 1 under DDP, which
sends its buckets where they are, 2.3 to 3.7 elsewhere."""

GPU_CONTEXT = 0.6 * GIB
"""CUDA's context and kernels on one GPU. Assumed, not measured here."""

GPU_PEERS = 0.4 * GIB
"""NCCL's buffers, where there are other ranks. Assumed, not measured here."""

GPU_CACHE = 1.05
"""What torch's allocator reserves for each byte that it hands out at the peak. Assumed, not measured here."""


def cpu_process(parameters: Sequence[Parameter], layout: Layout, tensors: int, base: int, *, half: bool) -> int:
    """Resident bytes besides ``tensors`` at their peak. ``base``: before the model was built; ``half``: 16-bit."""
    first_use = FIRST_USE[layout.topology.engine] + (FIRST_USE_16_BIT if half else 0)
    gloo = GLOO[layout.topology.engine] * largest_message(parameters, layout)
    return base + first_use + round(gloo + tensors * (HEAP - 1))


def gpu_process(topology: Topology, tensors: int) -> int:
    """Bytes of GPU memory besides ``tensors`` at their peak."""
    peers = GPU_PEERS if topology.ranks > 1 else 0
    return round(GPU_CONTEXT + peers + tensors * (GPU_CACHE - 1))


def cpu_generation(activations: int, base: int) -> int:
    """Resident bytes besides tensors of a process that generates. ``base``: before the model was loaded."""
    return base + FIRST_GENERATION + round(min(GENERATION_HOLES * activations, MOST_HOLES))


def saved_share(parameters: Sequence[Parameter], ranks: int) -> int:
    """Bytes of fp32 weights and moments that a rank writes of a checkpoint, and copies first in a background save."""
    return sum(p.elements * (4 + p.moments) + p.counters for p in parameters) // ranks


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(psutil.Process().memory_info().rss)


def most_resident() -> int:
    """The most bytes of this process that were ever in memory, where Linux tells; else now."""
    status = Path("/proc/self/status")
    if os.name != "posix" or not status.exists():
        return resident()
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), resident())
