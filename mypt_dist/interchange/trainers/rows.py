"""Several of their tensors, below each other, are one of ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.checkpoint import Segment
from mypt_dist.errors import CheckpointError
from mypt_dist.interchange.torch_files.stored import StoredTensor
from mypt_dist.interchange.trainers.layouts import Layout

KEPT = ("F32", "BF16", "F16")
"""Element types in which weights stay."""
LOSSY = ("F64",)
"""Element types that are rounded to fp32."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Equal pieces of a tensor of ours."""

    name: str
    pieces: tuple[StoredTensor, ...]

    @classmethod
    def of(cls, name: str, pieces: Sequence[StoredTensor]) -> "Rows":
        """Raises `CheckpointError` for pieces of different shapes or types, or of whole numbers."""
        kinds = {(piece.dtype, piece.shape) for piece in pieces}
        if len(kinds) > 1:
            told = " and ".join(f"{dtype} {list(shape)}" for dtype, shape in sorted(kinds)[:3])
            raise CheckpointError(f"{pieces[0].file.path}: the parts of {name} differ: {told}")
        if pieces[0].dtype not in (*KEPT, *LOSSY):
            raise CheckpointError(f"{pieces[0].file.path}: {name} is of type {pieces[0].dtype}")
        return cls(name, tuple(pieces))

    @property
    def dtype(self) -> str:
        return self.pieces[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all together."""
        first = self.pieces[0].shape
        return (len(self.pieces) * first[0], *first[1:]) if first else first

    def segment(self, *, as_fp32: bool) -> Segment:
        """What a checkpoint holds of it: in its own type, or in fp32 if wanted or if there is no other way."""
        convert = as_fp32 or self.dtype in LOSSY
        elements = sum(piece.elements for piece in self.pieces)
        dtype: Any = "F32" if convert else self.dtype

        def data() -> memoryview:
            joined: NDArray[Any] = np.concatenate([piece.array().reshape(-1) for piece in self.pieces])
            return (widened(joined, self.dtype) if convert else joined).view(np.uint8).data

        return Segment(self.name, self.shape, dtype, 0, elements, data)


def widened(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """In fp32. ``values`` are bits if ``dtype`` is BF16, whose bits are the upper half of fp32's."""
    if dtype == "BF16":
        upper: NDArray[np.float32] = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return upper
    return values.astype(np.float32)


def weights(layout: Layout, state: Mapping[str, StoredTensor], where: str) -> list[Rows]:
    """All parameters of ours. Raises one `CheckpointError` that names what is missing and what is too much."""
    needed = {theirs for parts in layout.parts.values() for theirs in parts}
    problems = [*_told("missing", needed - state.keys()), *_told("too much", state.keys() - needed - layout.ignored)]
    if problems:
        raise CheckpointError(
            f"{where}: its tensors are not those of the model that its settings describe: {'; '.join(problems)}"
        )
    if layout.tied is not None:
        embedding, head = layout.tied
        _check_tied(state[embedding], state[head], where)
    return [Rows.of(f"model/{ours}", [state[name] for name in theirs]) for ours, theirs in layout.parts.items()]


def _check_tied(embedding: StoredTensor, head: StoredTensor, where: str) -> None:
    if embedding == head:
        return
    alike = (embedding.shape, embedding.dtype) == (head.shape, head.dtype)
    if not alike or embedding.array().tobytes() != head.array().tobytes():
        raise CheckpointError(f"{where}: its settings say that head and embedding are one weight, its tensors are two")


def _told(what: str, names: set[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"{what}: {', '.join(sorted(names)[:5])}{more}"
