"""What does each sampling setting do to the logits? Pure functions on (B, V) fp32 logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def without_unused(logits: Tensor, vocab_size: int) -> Tensor:
    """Rows of the embedding beyond the tokenizer's vocabulary get no probability."""
    unused = torch.arange(logits.size(-1), device=logits.device) >= vocab_size
    return logits.masked_fill(unused, -math.inf)


def penalised(logits: Tensor, recent: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Logits of each row's ``recent`` ids divided by ``penalty`` where positive, multiplied where negative.

    The repetition penalty of CTRL (Keskar et al., 2019, arXiv:1909.05858, section 4.1).
    """
    if penalty == 1:
        return logits
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, ids in enumerate(recent):
        seen[row, torch.tensor(ids, dtype=torch.int64)] = True
    return torch.where(seen.to(logits.device), torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Only the ``k`` largest logits of a row stay, with those equal to the k-th; 0 keeps all."""
    if k == 0 or k >= logits.size(-1):
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Only the fewest tokens whose probabilities add up to at least ``p`` stay.

    Nucleus sampling (Holtzman et al., 2020, arXiv:1904.09751).
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, -math.inf)


def drawn(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One id a row, (B,), by the inverse of the cumulated probabilities at ``uniforms``, (B,) float64 in [0, 1)."""
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    # Below the total for every uniform below 1, so an id with probability follows; and right of equal values, so that
    # an id without any is passed over.
    return torch.searchsorted(cumulated, uniforms[..., None] * cumulated[..., -1:], right=True).squeeze(-1)
