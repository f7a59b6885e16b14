"""How is the next token picked from the model's distribution?"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from mypt_dist.config import Config, validate
from mypt_dist.config.problems import near_miss
from mypt_dist.errors import ConfigError

DEFAULT_PENALTY = 1.1


class SamplingConfig(Config):
    """Settings of one generation. Filters apply in this order: penalty, temperature, top-k, top-p."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Tokens to add to each prompt, unless a stop token comes first."""
    temperature: float = Field(default=0.8, ge=0)
    """Logits are divided by this. 0 takes the likeliest token."""
    top_k: int = Field(default=50, ge=0)
    """Pick among this many of the likeliest tokens. 0: among all."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """... and among the fewest that together have this probability."""
    repetition_penalty: float | None = Field(default=None, gt=0)
    """Makes recent tokens less likely. 1: not at all. Null: 1.1, but 1 at temperature 0: a plain argmax."""
    repetition_window: int = Field(default=256, ge=1)
    """How many tokens count as recent, the prompt's included."""
    stop: tuple[int | str, ...] | None = None
    """Special tokens, by name or id, that end a row and are not part of it. Null: the end of text; []: none."""
    seed: int = Field(default=1337, ge=0, lt=2**63)
    """Row r of a batch draws from its own generator, seeded with seed + r, whatever happens to other rows."""

    @property
    def penalty(self) -> float:
        """The repetition penalty that applies."""
        if self.repetition_penalty is None:
            return DEFAULT_PENALTY if self.temperature > 0 else 1.0
        return self.repetition_penalty


def _preset(temperature: float, top_k: int, top_p: float, repetition_penalty: float) -> SamplingConfig:
    return SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty)


PRESETS: Mapping[str, SamplingConfig] = MappingProxyType(
    {
        "chat": _preset(0.7, 50, 0.9, 1.1),
        "creative": _preset(1.0, 100, 0.95, 1.2),
        "factual": _preset(0.3, 10, 0.8, 1.0),
        "code": _preset(0.2, 40, 0.95, 1.0),
        "deterministic": _preset(0.0, 1, 1.0, 1.0),
    }
)
"""Settings by name."""


def sampling_from(preset: str | None, overrides: Mapping[str, Any]) -> SamplingConfig:
    """The named settings, or the defaults, with some of them replaced. Raises `ConfigError` for unknown ones."""
    base: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise ConfigError(f"there is no sampling preset {preset!r}{near_miss(preset, PRESETS)} (known: {known})")
        base = PRESETS[preset].model_dump()
    return validate(SamplingConfig, {**base, **overrides}, "sampling")
