"""Which flat pieces of which tensors a rank holds, and whether all pieces together make whole tensors."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from mypt_dist.checkpoint.layout import FOLDERS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Dtype: TypeAlias = Literal["F64", "I64", "F32", "I32", "BF16", "F16", "U8", "BOOL"]
"""Names of element types, as safetensors spells them."""

ITEM_BYTES: dict[str, int] = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class Segment:
    """Elements ``[start, start + length)`` of a logical tensor in row-major order, held by this rank.

    ``name`` starts with ``model/`` or ``optimizer/``; ``shape`` is that of the whole tensor, () for a scalar.
    A segment of length 0 writes nothing: it declares a tensor without elements.
    Raises ValueError for a range outside the tensor, an unknown type or another beginning of the name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    start: int
    length: int
    data: "Callable[[], ReadableBuffer]"
    """Gives the bytes, C-contiguous. Called once, from any thread, when they are written; then let go."""

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"{self.name}: no element type is called {self.dtype!r}")
        kind, _, rest = self.name.partition("/")
        if kind not in FOLDERS or not rest:
            raise ValueError(f"{self.name!r} must begin with {' or '.join(f'{kind}/' for kind in FOLDERS)}")
        if min(self.start, self.length, *self.shape, 0) < 0 or self.start + self.length > math.prod(self.shape):
            raise ValueError(f"{self.name}: [{self.start}, +{self.length}) is not inside a tensor of {self.shape}")

    @property
    def folder(self) -> str:
        """``weights`` or ``optimizer``."""
        return FOLDERS[self.name.partition("/")[0]]

    @property
    def key(self) -> str:
        """What this piece is called in its file. Unique: pieces of a tensor start at different elements."""
        return f"{self.name}@{self.start}" if self.start else self.name

    @property
    def bytes(self) -> int:
        """Size of the data."""
        return self.length * ITEM_BYTES[self.dtype]


def tiling_problem(pieces: Iterable[tuple[int, int]], elements: int) -> str | None:
    """Why (start, length) ``pieces`` do not cover [0, ``elements``) exactly once, or None if they do."""
    end = 0
    for start, length in sorted(pieces):
        if start != end or length < 1:
            return f"elements {min(start, end)} to {max(start, end)} are {'missing' if start > end else 'held twice'}"
        end = start + length
    return None if end == elements else f"{end} elements are held, the shape has {elements}"
