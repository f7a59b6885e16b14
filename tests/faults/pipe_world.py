"""Ranks that are forked processes and meet over sockets: they can be killed for real, without torch."""

import json
import os
import socket
from collections.abc import Callable

from mypt_dist.errors import LostPeerError
from mypt_dist.world import JSON, World


class PipeWorld:
    """Rank 0 collects every rank's value and sends all of them back. Who has died is noticed by its closed socket."""

    def __init__(self, rank: int, size: int, peers: list[socket.socket]) -> None:
        self.rank = rank
        self.size = size
        self._peers = [peer.makefile("rw") for peer in peers]

    def all_gather(self, value: JSON) -> list[JSON]:
        try:
            if self.rank:
                self._send(0, value)
                return list(self._receive(0))  # type: ignore[arg-type]
            values = [value, *(self._receive(peer) for peer in range(len(self._peers)))]
            for peer in range(len(self._peers)):
                self._send(peer, values)
        except OSError as error:
            raise LostPeerError("a peer died") from error
        return values

    def _send(self, peer: int, value: JSON) -> None:
        self._peers[peer].write(json.dumps(value) + "\n")
        self._peers[peer].flush()

    def _receive(self, peer: int) -> JSON:
        line = self._peers[peer].readline()
        if not line.endswith("\n"):
            raise LostPeerError("a peer died")
        return json.loads(line)  # type: ignore[no-any-return]


def fork_ranks(size: int, action: Callable[[World], None]) -> list[int]:
    """Run ``action`` on every rank, each a process. How they ended: 0, 256 for an error, 9 if killed."""
    pairs = [socket.socketpair() for _ in range(size - 1)]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            _be_rank(rank, size, pairs, action)
        children.append(child)
    for pair in pairs:
        for end in pair:
            end.close()
    return [os.waitpid(child, 0)[1] for child in children]


def _be_rank(
    rank: int, size: int, pairs: list[tuple[socket.socket, socket.socket]], action: Callable[[World], None]
) -> None:
    """Never returns: the copy of the caller must not go on with what its caller does."""
    code = 1
    # Whatever ends it is told by its exit status: a bug's traceback would be a second copy of the caller's.
    try:
        mine = [near for near, _ in pairs] if rank == 0 else [pairs[rank - 1][1]]
        for end in {end for pair in pairs for end in pair} - set(mine):
            end.close()
        action(PipeWorld(rank, size, mine))
        code = 0
    finally:
        os._exit(code)
