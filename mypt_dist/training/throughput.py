"""Where the time of a step goes, and how close it comes to the hardware's peak."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

PEAK_BF16_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "RTX 4090": 165.0,
    "V100": 125.0,
    "T4": 65.0,
}
"""Dense tensor-core peaks from the vendor's data sheets, in TFLOP/s (V100 and T4: fp16)."""

MEASURE_S = 1.0
"""Seconds after which no further product is begun: a CPU without bf16 instructions takes ten for one."""


class Phases:
    """Host seconds per named phase since the last report. On a GPU, work is charged where the host waits for it."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, on_change: Callable[[str], None] = lambda name: None
    ) -> None:
        """``on_change`` is told the name of each phase that begins, and of the one around it when it ends."""
        self._clock, self._on_change = clock, on_change
        self._around = ["loop"]
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._steps = self._tokens = 0
        self._since = clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the block's time to ``name``, and if it lies in another phase, to that as well."""
        begin = self._clock()
        try:
            with self._within(name):
                yield
        finally:
            self._seconds[name] += self._clock() - begin

    @contextmanager
    def paused(self, name: str = "paused") -> Iterator[None]:
        """Leave the block's time out: evaluating and saving say nothing of the speed of training."""
        begin = self._clock()
        try:
            with self._within(name):
                yield
        finally:
            self._since += self._clock() - begin

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        self._around.append(name)
        self._on_change(name)
        try:
            yield
        finally:
            self._around.pop()
            self._on_change(self._around[-1])

    def count_step(self, tokens: int) -> None:
        """One more step, of this many tokens over all ranks."""
        self._steps += 1
        self._tokens += tokens

    def report(self) -> dict[str, float]:
        """Milliseconds per step and tokens per second since the last report, which starts the next one."""
        now = self._clock()
        elapsed, steps = max(now - self._since, 1e-9), max(self._steps, 1)
        metrics = {f"time/{name}_ms": 1e3 * seconds / steps for name, seconds in self._seconds.items()}
        metrics |= {"time/step_ms": 1e3 * elapsed / steps, "throughput/tokens_per_sec": self._tokens / elapsed}
        self._seconds.clear()
        self._steps = self._tokens = 0
        self._since = now
        return metrics


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s that ``device`` can reach in matrix products: from the table, or measured where it has no entry.

    On GPUs fp32 runs outside the tensor cores' bf16 rate; the table is used for bf16 and fp16 alone.
    """
    if device.type == "cuda" and precision != "fp32":
        name = torch.cuda.get_device_name(device)
        for known, tflops in PEAK_BF16_TFLOPS.items():
            if known in name:
                return tflops * 1e12
    return measure_peak(device, torch.float32 if precision == "fp32" else torch.bfloat16)


def measure_peak(device: torch.device, dtype: torch.dtype, size: int | None = None, rounds: int = 24) -> float:
    """FLOP/s of the best of a few square matrix products: a lower bound of the peak, in some 0.1 s on a CPU.

    ``size``: as much as fills a GPU, and on a CPU as much as its caches hold.
    """
    size = size or (4096 if device.type == "cuda" else 512)
    a = torch.full((size, size), 0.5, dtype=dtype, device=device)
    best, deadline = float("inf"), time.perf_counter() + MEASURE_S
    for _ in range(rounds):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
        if time.perf_counter() > deadline:
            break
    return 2 * size**3 / best
