"""A tensor that lies in a file: known by shape and place, read when asked for."""

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mypt_dist.errors import CheckpointError
from mypt_dist.interchange.torch_files.archive import Record

ITEM_TYPES: dict[str, str] = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|u1"},
}
"""How numpy reads each element type; it knows no bfloat16, so that comes as its bits."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that stays open, so that it is the same one whatever becomes of its name."""

    path: Path
    descriptor: int

    def read(self, begin: int, size: int) -> bytearray:
        """Raises `CheckpointError` where the file has become shorter or cannot be read."""
        content = bytearray(size)
        view, done = memoryview(content), 0
        try:
            while done < size:
                count = os.preadv(self.descriptor, [view[done:]], begin + done)
                if not count:
                    raise CheckpointError(f"{self.path} ends at byte {begin + done:,}, in the middle of a tensor")
                done += count
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from None
        return content


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """``shape`` and ``strides`` in elements, from element ``offset`` of a record on."""

    file: OpenFile
    record: Record
    dtype: str
    """As safetensors spells it."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def problem(self) -> str | None:
        """Why the record cannot hold this, or None. Asked before a byte is allocated for it."""
        width, held = np.dtype(ITEM_TYPES[self.dtype]).itemsize, self.record.size
        if min(self.offset, *self.shape, *self.strides, 0) < 0 or len(self.shape) != len(self.strides):
            return "has a negative size"
        if self.elements * width > held:
            return f"is said to have {self.elements:,} elements, {held:,} bytes are there"
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)) + 1
        if self.elements and (self.offset + reach) * width > held:
            return f"is said to reach to element {self.offset + reach:,}, {held:,} bytes are there"
        return None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def array(self) -> NDArray[np.generic]:
        """Its elements, C-contiguous; bfloat16 as its bits in uint16. Raises `CheckpointError` for changed bytes."""
        content = self.file.read(self.record.begin, self.record.size)
        if zlib.crc32(content) != self.record.crc:
            raise CheckpointError(f"{self.file.path} is damaged: the checksum of a tensor in it is wrong")
        stored = np.dtype(ITEM_TYPES[self.dtype])
        if not self.elements:
            return np.zeros(self.shape, stored)
        strides = [stride * stored.itemsize for stride in self.strides]
        offset = self.offset * stored.itemsize
        view: NDArray[np.generic] = np.ndarray(self.shape, stored, content, offset, strides)
        return np.ascontiguousarray(view).reshape(self.shape)

    def number(self) -> float:
        """The value of a scalar. Raises `CheckpointError` for anything larger."""
        if self.elements != 1 or self.dtype == "BF16":
            raise CheckpointError(f"{self.file.path} has a tensor of {self.elements:,} elements in place of a number")
        return float(self.array().reshape(-1)[0])
