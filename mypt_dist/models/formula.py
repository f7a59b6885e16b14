"""How many parameters does a model have, and why? Sums of products of its sizes, told before any module is built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Part: TypeAlias = Literal["embedding", "positions", "attention", "mlp", "norm", "head"]

PARTS: tuple[Part, ...] = get_args(Part)
"""In the order of the forward pass."""

SYMBOLS: Mapping[str, str] = {
    "V": "rows of the embedding",
    "T": "context",
    "L": "layers",
    "E": "width",
    "H": "heads",
    "K": "heads of keys and values",
    "Q": "width of a head",
    "F": "hidden width of the MLP",
}
"""What the letters of a formula stand for."""

_POWERS = {1: "", 2: "²", 3: "³"}


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a formula, such as 4·L·E²."""

    part: Part
    factor: int
    symbols: str
    """Letters of `SYMBOLS`, one as often as it is multiplied: ``LEE``."""
    multiplied: bool = True
    """Whether these are weights that a token is multiplied with. Biases, gains and tables are not."""
    counted: bool = True
    """Whether these are parameters of their own. A tied head is multiplied, and counted as the embedding."""

    def text(self, values: Mapping[str, int] | None = None) -> str:
        """In letters, or with their ``values`` filled in."""
        letters = dict.fromkeys(self.symbols)
        powers = [
            f"{letter if values is None else values[letter]}{_POWERS[self.symbols.count(letter)]}" for letter in letters
        ]
        return "·".join([*([str(self.factor)] if self.factor != 1 else []), *powers])

    def value(self, values: Mapping[str, int]) -> int:
        """The number that it is."""
        return self.factor * math.prod(values[letter] for letter in self.symbols)


@dataclass(frozen=True, slots=True)
class Formula:
    """A model's sizes, and the products that its parameters are the sum of."""

    values: Mapping[str, int]
    """Of the letters of `SYMBOLS`."""
    products: tuple[Product, ...]

    @property
    def parameters(self) -> int:
        """All of them, a tied weight once."""
        return sum(self.parts().values())

    def parts(self) -> dict[Part, int]:
        """Parameters of each part."""
        counted = self._counted()
        return {part: sum(p.value(self.values) for p in counted if p.part == part) for part in PARTS}

    def text(self, part: Part | None = None, *, filled: bool = False) -> str:
        """The sum, of one part or of the whole model: in letters, or filled in with numbers."""
        products = [p for p in self._counted() if part in (None, p.part)]
        return " + ".join(p.text(self.values if filled else None) for p in products) or "0"

    @property
    def matrix_weights(self) -> int:
        """Weights that a token is multiplied with, a tied head included."""
        return sum(p.value(self.values) for p in self.products if p.multiplied)

    def flops_per_token(self, seq_len: int) -> int:
        """See `mypt_dist.models.layers.causal_lm.CausalLM.flops_per_token`."""
        v = self.values
        return 6 * self.matrix_weights + 12 * v["L"] * v["H"] * v["Q"] * seq_len

    @property
    def cached_per_token(self) -> int:
        """Numbers that a KV cache holds for each token of a row: a key and a value in every layer."""
        v = self.values
        return 2 * v["L"] * v["K"] * v["Q"]

    def _counted(self) -> list[Product]:
        return [p for p in self.products if p.counted]
