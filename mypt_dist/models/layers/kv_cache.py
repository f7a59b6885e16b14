"""Which keys and values of earlier tokens need not be computed again?

Rows of a batch may hold different numbers of tokens. A token's slot is its position, so rows of unequal length need
neither padding on the left nor shifted positions: what stands beyond a row's end is masked until it is overwritten.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries (B, H, T, D), keys and values (B, K, T, D) of new tokens to what each of them sees, (B, H, T, D)."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Sizes of a cache but for the batch."""

    n_layer: int
    n_kv_head: int
    capacity: int
    """Tokens a row can hold."""
    head_dim: int


class KVCache:
    """Keys and values, (layers, B, K, capacity, D), of the first ``lengths[b]`` tokens of each row b."""

    def __init__(self, shape: CacheShape, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.n_layer, batch_size, shape.n_kv_head, shape.capacity, shape.head_dim)
        # Zeros and not empty: a masked slot is multiplied with zero, which does not make a stray NaN vanish.
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.lengths = [0] * batch_size

    @property
    def capacity(self) -> int:
        """Tokens a row can hold."""
        return self.keys.size(3)

    def extension(self, count: int) -> "Extension":
        """Room for the next ``count`` tokens of every row. Raises `ValueError` if a row is too full for them."""
        if max(self.lengths) + count > self.capacity:
            raise ValueError(f"{count} more tokens do not fit: {max(self.lengths)} of {self.capacity} are taken")
        return Extension(self, count)

    def advance(self, count: int) -> None:
        """Every layer has written ``count`` more tokens to every row."""
        self.lengths = [length + count for length in self.lengths]

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what stands beyond ``lengths[b]`` in each row b. Raises `ValueError` if a row holds fewer tokens."""
        if len(lengths) != len(self.lengths) or any(new > old for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot rewind rows of {self.lengths} tokens to {list(lengths)}")
        self.lengths = list(lengths)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        index = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values = self.keys.index_select(1, index), self.values.index_select(1, index)
        self.lengths = [self.lengths[row] for row in rows]

    def replace_rows(self, rows: Sequence[int], other: "KVCache") -> None:
        """Put the rows of ``other``, whose capacity may be smaller, in the place of these."""
        index = torch.tensor(rows, device=self.keys.device)
        self.keys[:, index, :, : other.capacity] = other.keys
        self.values[:, index, :, : other.capacity] = other.values
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length


class Extension:
    """The next tokens of every row during one forward pass: their positions, and what they attend to."""

    def __init__(self, cache: KVCache, count: int) -> None:
        self._cache = cache
        self._count = count
        self._end = max(cache.lengths) + count
        self._even = len(set(cache.lengths)) == 1
        steps = torch.arange(count, device=cache.keys.device)
        if self._even:
            self.positions = steps + cache.lengths[0]
        else:
            self.positions = torch.tensor(cache.lengths, device=cache.keys.device)[:, None] + steps
        """(T,) if all rows are equally long, else (B, T)."""
        self._mask = self._visible()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store ``k`` and ``v``, (B, K, T, D), of a layer; (B, H, T, D) queries to the mix of what they see."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        if self._even:
            start = self._end - self._count
            keys[:, :, start : self._end], values[:, :, start : self._end] = k, v
        else:
            rows = torch.arange(len(k), device=k.device)[:, None]
            keys[rows, :, self.positions], values[rows, :, self.positions] = k.transpose(1, 2), v.transpose(1, 2)
        if self._end == self._count:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self._count > 1, enable_gqa=True)
        seen = keys[:, :, : self._end], values[:, :, : self._end]
        return F.scaled_dot_product_attention(q, *seen, attn_mask=self._mask, enable_gqa=True)

    def _visible(self) -> Tensor | None:
        """True where a query may look at a slot, (..., T, slots); none if no mask is needed to say it."""
        if self._even and self._count in (1, self._end):
            return None
        slots = torch.arange(self._end, device=self.positions.device)
        visible = slots <= self.positions[..., None]
        return visible if self._even else visible[:, None]
