"""The bytes of a tensor of theirs, read out of a checkpoint a piece at a time, in the element type asked for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mypt_dist.checkpoint import ITEM_BYTES, Checkpoint, Dtype
from mypt_dist.errors import ConfigError
from mypt_dist.interchange.hf.forms import Match

DtypeChoice: TypeAlias = Literal["keep", "fp32", "bf16", "fp16"]

TORCH = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""safetensors' name -> torch's."""
CHOSEN: dict[DtypeChoice, Dtype] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
PIECE = 4 << 20
"""Elements read at once, and of a transposed matrix written at once."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Where the numbers of a tensor of theirs come from, and as what they are written."""

    checkpoint: Checkpoint
    match: Match
    dtype: Dtype

    @property
    def bytes(self) -> int:
        """Size of what `pieces` gives."""
        return math.prod(self.match.shape) * ITEM_BYTES[self.dtype]

    @property
    def is_rounded(self) -> bool:
        """Whether the checkpoint holds more digits than are written."""
        if self.match.ours is None:
            return False
        held = self.checkpoint.tensor(f"model/{self.match.ours}").dtype
        return held != self.dtype and not (held in ("BF16", "F16") and self.dtype == "F32")

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in order. Raises `ConfigError` for a number that the element type cannot hold.

        Holds some MB; of a transposed matrix all of it, because its rows are our columns.
        """
        if self.match.ours is None:
            yield memoryview(bytes(self.bytes))
        elif self.match.transposed:
            yield from self._transposed()
        else:
            start, count = self.match.first_row * math.prod(self.match.shape[1:]), math.prod(self.match.shape)
            for begin in range(start, start + count, PIECE):
                yield self._spelled(self._read(begin, min(PIECE, start + count - begin)))

    def _transposed(self) -> Iterator[memoryview]:
        rows, columns = self.match.shape
        ours = self._read(0, rows * columns).view(columns, rows)
        step = max(1, PIECE // columns)
        for begin in range(0, rows, step):
            yield self._spelled(ours[:, begin : begin + step].t().contiguous().view(-1))

    def _read(self, start: int, count: int) -> torch.Tensor:
        name = f"model/{self.match.ours}"
        held = self.checkpoint.tensor(name).dtype
        if held not in TORCH:
            raise ConfigError(f"{self.checkpoint.folder}: {name} is {held}, a model is made of floating-point numbers")
        raw = bytearray(count * ITEM_BYTES[held])
        self.checkpoint.read_into(name, start, count, raw)
        return torch.frombuffer(raw, dtype=TORCH[held])

    def _spelled(self, numbers: torch.Tensor) -> memoryview:
        written = numbers.to(TORCH[self.dtype])
        if self.dtype == "F16" and numbers.dtype != torch.float16 and not written.isfinite().all():
            largest = float(numbers.abs().max())
            raise ConfigError(
                f"{self.match.ours} holds {largest:.4g}, and fp16 nothing beyond 65,504: choose --dtype bf16 or fp32"
            )
        return memoryview(written.view(torch.uint8).numpy().data)


def is_zero(checkpoint: Checkpoint, ours: str) -> bool:
    """Whether a tensor of ours holds nothing but zeros."""
    entry = checkpoint.tensor(f"model/{ours}")
    raw = bytearray(entry.elements * ITEM_BYTES[entry.dtype])
    checkpoint.read_into(f"model/{ours}", 0, entry.elements, raw)
    return not bool(torch.frombuffer(raw, dtype=TORCH[entry.dtype]).any())
