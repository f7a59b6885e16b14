"""What may stand beside the tokens of a dataset: one value for each token, in a file beside the shard."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Companion: TypeAlias = Literal["mask", "weights", "segments"]

COMPANIONS: "dict[Companion, np.dtype[Any]]" = {
    "mask": np.dtype("u1"),
    "weights": np.dtype("<f4"),
    "segments": np.dtype("u1"),
}
"""``mask``: 1 where the token is learned as a target, 0 where it is only seen. ``weights``: of its loss, finite and not
negative. ``segments``: 0 for padding; another value than the token before means that a document begins here."""

CYCLE = 255
"""Segments are numbered 1 … 255 and then 1 again: only the change from one token to the next means something."""


class SegmentNumbers:
    """Numbers documents, as ``segments`` has them, over any number of blocks."""

    def __init__(self) -> None:
        self.documents = 0
        self._last = 0

    def of(self, raw: NDArray[np.uint8], begins: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(n,) segment numbers. ``raw``: 0 for padding, any change is a border; so is every true of ``begins``."""
        if not len(raw):
            return raw
        is_text = raw != 0
        changes = np.empty(len(raw), np.bool_)
        changes[0] = raw[0] != self._last
        np.not_equal(raw[1:], raw[:-1], out=changes[1:])
        count = self.documents + np.cumsum((changes | begins) & is_text)
        self.documents, self._last = int(count[-1]), int(raw[-1])
        numbers: NDArray[np.uint8] = np.where(is_text, (count - 1) % CYCLE + 1, 0).astype(np.uint8)
        return numbers


class DocumentCounter:
    """Counts documents, over any number of blocks: by their segments where there are any, else by their ends."""

    def __init__(self, eot_id: int) -> None:
        self._eot_id = eot_id
        self._segments = SegmentNumbers()
        self._ended = 0

    def add(self, tokens: NDArray[Any]) -> None:
        """Tokens of a dataset without segments."""
        self._ended += int((tokens == self._eot_id).sum())

    def count(self, documents: int) -> None:
        """Documents that were counted elsewhere."""
        self._ended += documents

    def add_segments(self, segments: NDArray[np.uint8]) -> None:
        """The segments of a dataset that has some."""
        self._segments.of(segments, np.zeros(len(segments), np.bool_))

    @property
    def documents(self) -> int:
        return self._ended + self._segments.documents
