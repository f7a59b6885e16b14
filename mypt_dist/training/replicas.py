"""Do ranks that must hold the same weights hold the same? A bit that flips in one memory spreads to no other."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mypt_dist.world import JSON


def digests(tensors: Sequence[Tensor]) -> list[int]:
    """For each tensor the sum of its bits, which any single flip changes. The host waits for its device once."""
    if not tensors:
        return []
    found: list[int] = torch.stack([_bits(tensor).sum(dtype=torch.int64) for tensor in tensors]).tolist()
    return found


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def odd_ranks(told: Sequence[JSON]) -> str | None:
    """Who differs from its copies: a part of a sentence, None if nobody does.

    ``told`` has each rank's ``group``, the number that its copies share, and its ``digests``. Where most of the copies
    agree the others are odd; of two that differ nobody can say which is right.
    """
    groups: defaultdict[int, dict[int, tuple[int, ...]]] = defaultdict(dict)
    for rank, reply in enumerate(told):
        one = cast("dict[str, JSON]", reply)
        groups[cast("int", one["group"])][rank] = tuple(cast("list[int]", one["digests"]))
    found = [problem for members in groups.values() if (problem := _odd_among(members))]
    return "; ".join(found) or None


def _odd_among(members: dict[int, tuple[int, ...]]) -> str | None:
    counted = Counter(members.values()).most_common()
    if len(counted) == 1:
        return None
    usual, votes = counted[0]
    if 2 * votes > len(members):
        odd = [rank for rank, digests in members.items() if digests != usual]
        return (
            f"rank {_listed(odd)} {'differs' if len(odd) == 1 else 'differ'} from ranks {_listed(_rest(members, odd))}"
        )
    return f"ranks {_listed(members)} differ from each other"


def _rest(members: dict[int, tuple[int, ...]], odd: Sequence[int]) -> list[int]:
    return [rank for rank in members if rank not in odd]


def _listed(ranks: "Sequence[int] | dict[int, tuple[int, ...]]") -> str:
    return ", ".join(map(str, ranks))
