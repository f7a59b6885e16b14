"""A launch file and the command line: put together, or refused with both values."""

from pathlib import Path
from typing import Any

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.launch.files import read_launch_file
from mypt_dist.launch.plan import Place, plan
from mypt_dist.launch.topology import Topology


def test_the_command_line_wins_over_the_file() -> None:
    launch = plan(read_launch_file("hsdp"), Place(ranks=8, replicas=4, nodes=2, node_rank=1, address="a", port=7))
    assert launch.topology == Topology("hsdp", 8, replicas=4)
    assert (launch.nodes, launch.node_rank, launch.address, launch.port, launch.cpu) == (2, 1, "a", 7, False)
    assert launch.ranks_per_node == 4
    own = plan(read_launch_file("hsdp"), Place(node_rank=0, address="a"))
    assert (own.topology.ranks, own.nodes, own.port) == (16, 2, 29500)


def test_one_machine_needs_neither_address_nor_port() -> None:
    launch = plan(read_launch_file("ddp"), Place(ranks=2, address="a", cpu=True))
    assert (launch.address, launch.port, launch.node_rank, launch.cpu) == (None, 0, 0, True)
    assert plan(read_launch_file("cpu"), Place()).cpu


def test_a_file_may_say_which_machine_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "node1.yaml"
    path.write_text(
        "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 4\nmachine_rank: 1\n"
        "main_process_ip: node0\nmain_process_port: 1234\n"
    )
    launch = plan(read_launch_file(str(path)), Place())
    assert (launch.node_rank, launch.address, launch.port) == (1, "node0", 1234)
    assert plan(read_launch_file(str(path)), Place(node_rank=0)).node_rank == 0


@pytest.mark.parametrize(
    ("target", "place", "expected"),
    [
        ("ddp", {}, "ddp.yaml leaves the number of ranks to you: add --ranks N, the number of GPUs"),
        ("single", {"ranks": 2}, "distributed_type 'NO' is one process, but there are 2 ranks: use ddp"),
        ("ddp", {"ranks": 8, "nodes": 2, "address": "a"}, "2 machines: add --node-rank K, from 0 to 1"),
        ("ddp", {"ranks": 8, "nodes": 2, "node_rank": 0}, "2 machines: add --address HOST"),
        ("ddp", {"ranks": 8, "nodes": 3, "node_rank": 0, "address": "a"}, "8 ranks cannot be shared by 3 machines"),
        ("ddp", {"ranks": 8, "nodes": 2, "node_rank": 2, "address": "a"}, "--node-rank 2 of 2 machines: use 0 to 1"),
        (
            "fsdp2",
            {"ranks": 8, "replicas": 2},
            "--replicas 2: fsdp2.yaml keeps one copy of the sharded state; use hsdp",
        ),
        ("hsdp", {"nodes": 1, "ranks": 8}, "2 replicas of 8 shards are 16 ranks, but there are 8: add --replicas N"),
        ("hsdp", {"nodes": 1, "ranks": 8, "replicas": 3}, "3 replicas of 2 shards are 6 ranks, but there are 8"),
        ("fsdp2-offload", {"ranks": 2, "cpu": True}, "on CPUs there is nothing to offload from"),
    ],
)
def test_what_cannot_be_launched_is_refused(target: str, place: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(read_launch_file(target), Place(**place))
    assert f"{target} cannot be launched like this:\n  {expected}" in str(refused.value)


def test_contradictions_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 9\ngpu_ids: '0,1,2'\n")
    assert plan(read_launch_file(str(path)), Place(ranks=3)).topology.ranks == 3
    assert plan(read_launch_file(str(path)), Place(ranks=4, cpu=True)).topology.ranks == 4, "GPUs play no part"
    with pytest.raises(ConfigError) as refused:
        plan(read_launch_file(str(path)), Place(nodes=2, node_rank=5, address="a"))
    assert len(str(refused.value).splitlines()) == 4
    assert "gpu_ids names 3 GPUs, but this machine has 4 ranks" in str(refused.value)
