"""What is a token of a conversation? Every kind can be given a weight of its own in the loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mypt_dist.errors import ConfigError

KINDS = (
    "tag",
    "system",
    "context",
    "user",
    "assistant",
    "toolresult",
    "think",
    "toolcall",
    "cite",
    "close",
    "end",
)
"""``tag``: what opens a turn or a part, and all of a template's own text that is never learned. ``close``: what closes
one. ``end``: the stop token of a turn of the assistant. The rest: text, by its role, or by its part in the assistant's
turns. A kind is its place in this tuple."""

KIND: Mapping[str, int] = {name: number for number, name in enumerate(KINDS)}

WEIGHABLE = ("assistant", "think", "toolcall", "cite", "tag", "close", "end")
"""Kinds of tokens that can be learned at all."""


@dataclass(frozen=True, slots=True)
class KindWeights:
    """Of the loss of tokens that are learned, by kind; 1 for kinds that are not named."""

    by_kind: Mapping[str, float]

    @classmethod
    def of(cls, named: Mapping[str, float]) -> "KindWeights":
        """Raises `ConfigError` for a kind that is never learned, and for what is no weight."""
        for name, weight in named.items():
            if name not in WEIGHABLE:
                raise ConfigError(f"no kind of learned token is called {name!r} (known: {', '.join(WEIGHABLE)})")
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"the weight of {name} must be a number of at least 0, got {weight}")
        return cls(dict(named))

    @property
    def are_equal(self) -> bool:
        """Whether there is nothing but learned and not learned."""
        return all(weight in (0, 1) for weight in self.by_kind.values())

    def table(self) -> NDArray[np.float32]:
        """(kinds,)."""
        return np.array([self.by_kind.get(name, 1.0) for name in KINDS], np.float32)
