"""Ranks that do not meet: which error it is, and that each of them tells it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch.distributed as dist
from lives import free_port, rank_variables

from mypt_dist.engine.rendezvous import meeting
from mypt_dist.errors import ConfigError, LostPeerError

ELSEWHERE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        (
            dist.DistNetworkError(
                "The client socket has timed out after 4000ms while trying to connect to (x, 1).\nC++"
            ),
            LostPeerError,
            "the 2 ranks did not all meet at node-0:29500: The client socket has timed out after 4000ms while",
        ),
        (RuntimeError("Gloo connectFullMesh failed with [..] no error"), LostPeerError, "did not all meet at node-0"),
        (dist.DistNetworkError("port: 1, code: -98, name: EADDRINUSE"), ConfigError, "port 29500, on which the ranks"),
        (RuntimeError("[..] Unable to find address for: ib7"), ConfigError, "no network interface ib7 with an address"),
    ],
)
def test_what_torch_says_becomes_an_error_with_an_exit_code(said: RuntimeError, kind: type, told: str) -> None:
    with pytest.raises(kind) as raised, meeting(ELSEWHERE):
        raise said
    assert told in str(raised.value)
    assert "C++" not in str(raised.value)


def test_a_bug_stays_one() -> None:
    with pytest.raises(RuntimeError, match="a shape"), meeting(ELSEWHERE):
        raise RuntimeError("a shape")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"MASTER_ADDR": ""}, "rank 1 was not told where to meet the others (MASTER_ADDR not set)"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http: a port from 1 to 65535 was expected"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000: a port"),
    ],
)
def test_a_place_that_nobody_can_come_to_is_refused(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as raised, meeting({**ELSEWHERE, **environ}):
        raise AssertionError("nobody tries")
    assert told in str(raised.value)


def test_one_process_needs_no_place() -> None:
    with meeting({}):
        pass


def train(run_file: Path, rank: int, port: int) -> subprocess.CompletedProcess[str]:
    """One rank of two, each the first on its machine; the other never comes."""
    environment = {**os.environ, **rank_variables(rank, 2, port), "LOCAL_RANK": "0"}
    command = ["train", str(run_file), "watch.first_step_s=3", "watch.watchdog=false"]
    return subprocess.run(
        [sys.executable, "-m", "mypt_dist", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment,
    )


@pytest.mark.multiproc
@pytest.mark.parametrize(("rank", "speaker"), [(0, "mypt: "), (1, "mypt: [rank 1] ")])
def test_a_rank_whose_peer_never_comes_says_so_and_ends_with_its_code(rank: int, speaker: str, run_file: Path) -> None:
    port = free_port()
    done = train(run_file, rank, port)
    assert done.returncode == LostPeerError.exit_code, done.stderr
    assert f"{speaker}the 2 ranks did not all meet at 127.0.0.1:{port}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.socket()) as listener:
        listener.bind(("", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.multiproc
def test_a_port_that_is_taken_is_a_mistake(taken: int, run_file: Path) -> None:
    done = train(run_file, 0, taken)
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert f"mypt: port {taken}, on which the ranks should meet, is already in use" in done.stderr
