"""What only several ranks can find out: do they meet, see one folder, agree on the time, and talk fast enough?"""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mypt_dist.run.doctor.check import Check, Result, fail, ok, skip, warn
from mypt_dist.run.doctor.disk import existing
from mypt_dist.world import JSON, World

if TYPE_CHECKING:
    from mypt_dist.engine.host import HostGroup

MEETING_S = 60
"""Launchers start ranks within seconds of each other; importing torch on a slow disk takes the rest."""

SKEW_S = 1.0
"""Clocks further apart make logs of several machines unreadable. No decision of a run depends on them."""

MESSAGE_BYTES = 16 << 20
SLOW = {"gloo": 50.0, "nccl": 2000.0}
"""MB/s of an all-reduce: a 124M model sends half a gigabyte a step."""


def clock_skew(times: Sequence[float], round_trip: float) -> Result:
    """``times`` that ranks read at about the same moment, within ``round_trip`` seconds."""
    skew = max(times) - min(times)
    if skew > SKEW_S + round_trip:
        slow, fast = times.index(min(times)), times.index(max(times))
        return warn(f"rank {fast} is {skew:,.1f} s ahead of rank {slow}", "run an NTP client on every machine")
    return ok(f"within {max(skew, round_trip):.3f} s")


def same_folder(seen: Sequence[bool], folder: Path) -> Result:
    """Whether each rank saw what rank 0 wrote into ``folder``."""
    blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
    if blind:
        return fail(
            f"ranks {', '.join(blind)} do not see what rank 0 wrote into {folder}",
            "set out= to a folder that all machines share, at the same path on each",
        )
    return ok(f"{len(seen)} ranks see {folder}")


def bandwidth(num_bytes: int, seconds: float, ranks: int, backend: str) -> Result:
    """An all-reduce of ``num_bytes`` took ``seconds``. Told as what each rank's link carried, as NCCL's busbw."""
    rate = 2 * (ranks - 1) / ranks * num_bytes / 1e6 / max(seconds, 1e-9)
    text = f"{rate:,.0f} MB/s by {backend}, {ranks} ranks"
    if rate < SLOW.get(backend, 0):
        return warn(text, "see interfaces above; with slow links between machines take hsdp or fewer, larger messages")
    return ok(text)


def alone() -> list[Check]:
    """What is said of these checks without a launcher."""
    reason = skip("one process; start with mypt launch TARGET RUNFILE --doctor for several")
    return [Check(name, "", lambda: reason) for name in ("ranks", "same folder", "clocks", "bandwidth")]


def meet(environ: Mapping[str, str], *, gpus: bool) -> tuple[World, str]:
    """Connect to the other ranks: this rank's view of them, and how they talk. Raises what torch raises."""
    import torch  # noqa: PLC0415 - only with several ranks
    import torch.distributed as dist  # noqa: PLC0415

    from mypt_dist.engine.host import HostGroup  # noqa: PLC0415

    backend = "nccl" if gpus else "gloo"
    if gpus:
        torch.cuda.set_device(int(environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=timedelta(seconds=MEETING_S))
    return _Ranks(dist.get_rank(), dist.get_world_size(), HostGroup(dist.get_world_size())), backend


def group_checks(world: World, backend: str, out: Path) -> list[Check]:
    """For every rank alike, in this order: each is a collective."""
    return [
        Check("ranks", "a launcher that starts fewer than it was asked for", lambda: ok(f"{world.size} ranks meet")),
        Check("same folder", "a checkpoint in pieces on several machines", lambda: _share(world, out), MEETING_S),
        Check("clocks", "logs that cannot be put side by side", lambda: _compare_clocks(world), MEETING_S),
        Check("bandwidth", "GPUs that wait for each other", lambda: _reduce(world, backend), MEETING_S),
    ]


class _Ranks:
    """`World`, without an engine."""

    def __init__(self, rank: int, size: int, host: "HostGroup") -> None:
        self.rank = rank
        self.size = size
        self._host = host

    def all_gather(self, value: JSON) -> list[JSON]:
        return self._host.all_gather(value)


def _share(world: World, out: Path) -> Result:
    folder, mark = existing(out), None
    if world.rank == 0:
        mark = folder / f".mypt-doctor-{secrets.token_hex(6)}"
        with suppress(OSError):
            mark.touch(exist_ok=False)
    name = world.all_gather(None if mark is None else str(mark))[0]
    # A network file system may show it late.
    deadline = time.monotonic() + 3
    while not (sees := Path(str(name)).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = [bool(value) for value in world.all_gather(sees)]
    if mark is not None:
        mark.unlink(missing_ok=True)
    return same_folder(seen, folder)


def _compare_clocks(world: World) -> Result:
    world.all_gather(None)
    begin = time.monotonic()
    times = [float(str(value)) for value in world.all_gather(time.time())]
    return clock_skew(times, time.monotonic() - begin)


def _reduce(world: World, backend: str) -> Result:
    import torch  # noqa: PLC0415 - only with several ranks
    import torch.distributed as dist  # noqa: PLC0415

    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if backend == "nccl" else "cpu"
    message = torch.ones(MESSAGE_BYTES // 4, device=device)
    fastest = float("inf")
    for _ in range(3):
        world.all_gather(None)
        begin = time.monotonic()
        dist.all_reduce(message)
        float(message[0])
        fastest = min(fastest, time.monotonic() - begin)
    # All ranks must tell the same: the slowest counts.
    slowest = max(float(str(value)) for value in world.all_gather(fastest))
    return bandwidth(MESSAGE_BYTES, slowest, world.size, backend)
