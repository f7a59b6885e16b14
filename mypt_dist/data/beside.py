"""What is learned of a window, how much, and what sees what: told by the companions of token streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mypt_dist.data.companions import COMPANIONS, Companion
from mypt_dist.data.stream import TokenStream


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of the windows of a batch. ``T`` is the context: a window has a token more."""

    learned: Tensor
    """(B, T) booleans: whether the label is learned."""
    weights: Tensor | None
    """(B, T) float32: of the loss of each label, 0 where nothing is learned; None: 1 each."""
    segments: Tensor | None
    """(B, T) int64: which segment of its window an input belongs to; None: there are none."""
    damaged: dict[int, list[str]]
    """Rows that touch damaged blocks, and those blocks."""


class Beside:
    """Gathers companions. Streams without a mask are learned whole, those without weights weigh 1."""

    def __init__(self, streams: Sequence[TokenStream], kinds: set[Companion]) -> None:
        self._streams = streams
        self._kinds = kinds

    @classmethod
    def of(cls, streams: Sequence[TokenStream]) -> "Beside | None":
        """None where no stream has any companion: plain text costs nothing."""
        kinds = {kind for stream in streams for kind in stream.beside}
        return cls(streams, kinds) if kinds else None

    def gather(
        self,
        starts: Sequence[Sequence[int]],
        rows: Sequence[Sequence[int]],
        shape: tuple[int, ...],
        documents: Tensor | None,
    ) -> Told:
        """Of windows (B, T + 1) ``shape``, by stream: where they start, and which rows they are.

        ``documents``: (B, T) segments of the rows of streams that have none of their own.
        """
        damaged: dict[int, list[str]] = {}

        def read(kind: Companion, otherwise: int) -> NDArray[Any]:
            found = np.full(shape, otherwise, COMPANIONS[kind])
            for stream, begin, mine in zip(self._streams, starts, rows, strict=True):
                if kind in stream.beside:
                    for row, blocks in stream.beside[kind].gather(begin, found, mine).items():
                        damaged.setdefault(row, []).extend(blocks)
            return found

        # A first token has nothing before it to be told from, so what stands beside it does not matter.
        learned: NDArray[np.bool_] = read("mask", 1)[:, 1:] != 0
        segments = documents
        if "segments" in self._kinds:
            numbers = read("segments", 1)
            changes = numbers[:, 1:] != numbers[:, :-1]
            # Neither padding nor the beginning of another segment can be told from what a token sees.
            learned &= ~changes & (numbers[:, 1:] != 0)
            segments = self._segments(changes, rows, documents)
        weights = None
        if "weights" in self._kinds:
            values = read("weights", 1)[:, 1:]
            learned &= values > 0
            weights = torch.from_numpy(np.where(learned, values, np.float32(0)))
        return Told(torch.from_numpy(learned), weights, segments, damaged)

    def _segments(self, changes: NDArray[np.bool_], rows: Sequence[Sequence[int]], documents: Tensor | None) -> Tensor:
        """Numbers that grow along a window: those on the disk begin anew after 255, and padding is 0."""
        found = np.zeros(changes.shape, np.int64)
        np.cumsum(changes[:, :-1], axis=1, out=found[:, 1:])
        if documents is not None:
            plain = [
                row for s, mine in zip(self._streams, rows, strict=True) if "segments" not in s.beside for row in mine
            ]
            found[plain] = documents.numpy()[plain]
        return torch.from_numpy(found)
