"""Ranks meet, or each of them says why they did not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.distributed as dist

from mypt_dist.engine.host import reason_of
from mypt_dist.errors import ConfigError, LostPeerError

PLACE = ("MASTER_ADDR", "MASTER_PORT")
"""Where rank 0 waits for the others: set by whoever starts the ranks."""

IN_USE = "EADDRINUSE"
NO_INTERFACE = "Unable to find address for: "
NO_MESH = "connectFullMesh failed"
"""In what torch says: gloo's ranks have met, but cannot reach one another."""


@contextmanager
def meeting(environ: Mapping[str, str]) -> Iterator[None]:
    """Connect ranks in here. Raises `LostPeerError` if not all of them come, `ConfigError` if they never could."""
    _require_place(environ)
    try:
        yield
    except RuntimeError as error:
        reason = reason_of(error)
        if IN_USE in reason:
            raise ConfigError(
                f"port {environ.get('MASTER_PORT')}, on which the ranks should meet, is already in use on this "
                "machine: give another --port, or end the run that listens there"
            ) from error
        if NO_INTERFACE in reason:
            raise ConfigError(
                f"this machine has no network interface {reason.partition(NO_INTERFACE)[2]} with an address: correct "
                "GLOO_SOCKET_IFNAME (names are listed by: ip addr)"
            ) from error
        if isinstance(error, dist.DistError) or NO_MESH in reason:
            place = ":".join(environ.get(name, "?") for name in PLACE)
            ranks = _started(environ)
            raise LostPeerError(f"the {ranks} ranks did not all meet at {place}: {reason}") from error
        raise


def _require_place(environ: Mapping[str, str]) -> None:
    if _started(environ) == 1:
        return
    missing = [name for name in PLACE if not environ.get(name)]
    if missing:
        raise ConfigError(
            f"rank {environ.get('RANK', '?')} was not told where to meet the others ({', '.join(missing)} not set): "
            "start with mypt launch, accelerate launch or torchrun, which set it"
        )
    port = environ["MASTER_PORT"]
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"MASTER_PORT={port}: a port from 1 to 65535 was expected")


def _started(environ: Mapping[str, str]) -> int:
    return int(environ.get("WORLD_SIZE", "1"))
