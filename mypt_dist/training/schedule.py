"""Learning rate as a pure function of the step, so a checkpoint need not hold a scheduler."""

import math
from typing import Literal

from pydantic import Field

from mypt_dist.config import Config


class ScheduleConfig(Config):
    """A linear warm-up, a shape, and a floor."""

    shape: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """``wsd`` (warm-up, stable, decay; Hu et al., 2024, arXiv:2404.06395) holds the peak and falls only at the end."""
    unit: Literal["steps", "tokens"] = "steps"
    """What ``warmup`` and ``decay`` count."""
    warmup: int = Field(default=0, ge=0)
    """Length of the rise from 0 to the peak."""
    decay: int | None = Field(default=None, ge=1)
    """Length of ``wsd``'s final fall. Null: a fifth of the run."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """Final rate, as a fraction of the peak. ``constant`` has none."""


def factor(step: int, steps: int, config: ScheduleConfig, tokens_per_step: int = 1) -> float:
    """The rate of ``step`` (from 0) of ``steps``, as a fraction of the peak."""
    scale = tokens_per_step if config.unit == "tokens" else 1
    now, end = step * scale, steps * scale
    if now < config.warmup:
        return (now + scale) / (config.warmup + scale)
    if config.shape == "constant":
        return 1.0
    start = config.warmup
    if config.shape == "wsd":
        start = max(start, end - (config.decay or math.ceil(end / 5)))
    progress = min(1.0, max(0.0, (now - start) / max(1, end - start)))
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if config.shape == "cosine" else 1 - progress
    return config.floor + (1 - config.floor) * falling
