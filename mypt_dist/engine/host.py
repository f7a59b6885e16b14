"""Small values between ranks, from host to host over gloo: no accelerator waits, nothing is pickled."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from mypt_dist.errors import LostPeerError
from mypt_dist.world import JSON


@contextmanager
def peers_may_be_lost() -> Iterator[None]:
    """Turn what a collective raises when another rank dies or hangs into `LostPeerError`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST):
            raise LostPeerError(f"another rank died or stopped answering: {reason_of(error)}") from error
        raise


def reason_of(error: RuntimeError) -> str:
    """What torch says without its stack and its guesses."""
    return str(error).partition("\n")[0].partition(". This is typically caused")[0]


_LOST = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "Socket Timeout")


class HostGroup:
    """Collectives of all ranks on the host; with one rank, nothing."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._group = dist.new_group(backend="gloo") if size > 1 else None

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks, in float64, in rank order on every rank alike."""
        if self._group is None:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        with peers_may_be_lost():
            dist.all_reduce(total, group=self._group)
        return [float(value) for value in total]

    def all_gather(self, value: JSON) -> list[JSON]:
        """Every rank's value, in rank order."""
        if self._group is None:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._size)]
        with peers_may_be_lost():
            dist.all_gather(sizes, torch.tensor([len(mine)]), group=self._group)
            longest = max(int(size) for size in sizes)
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(mine)] = mine
            texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self._size)]
            dist.all_gather(texts, padded, group=self._group)
        return [json.loads(t[: int(n)].numpy().tobytes()) for t, n in zip(texts, sizes, strict=True)]
