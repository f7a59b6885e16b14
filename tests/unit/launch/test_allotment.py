"""What schedulers tell a launcher, and the launch that follows from it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.launch.allotment import Allotment, Told, read_allotment, settle
from mypt_dist.launch.allotment.slurm import first_node, node_names
from mypt_dist.launch.files import read_launch_file
from mypt_dist.launch.plan import Launch, Place, plan

SCHEDULERS = json.loads((Path(__file__).parents[2] / "golden/schedulers.json").read_text())
"""What each of them tells the second of two nodes. The golden commands are made from the same."""
SLURM, KUBEFLOW, INDEXED, SKYPILOT = (
    SCHEDULERS[name]["environment"] for name in ("slurm", "kubeflow", "indexed job", "skypilot")
)


def first(nodes: str) -> str:
    return next(node_names(nodes))


def launch(environ: dict[str, str], target: str = "ddp", **place: Any) -> Launch:
    file = read_launch_file(target)
    return plan(file, settle(file, Place(**place), read_allotment(environ, first)))


@pytest.mark.parametrize(
    ("environ", "given", "address", "port"),
    [
        (SLURM, {}, "gpu07", 23456),
        (KUBEFLOW, {}, "train-node-0-0.train", 29500),
        (INDEXED, {"nodes": 2, "ranks": 16, "address": "js-workers-0-0.js"}, "js-workers-0-0.js", 29500),
        (SKYPILOT, {}, "10.0.0.1", 29500),
    ],
)
def test_the_second_of_two_nodes_knows_its_place(
    environ: dict[str, str], given: dict[str, Any], address: str, port: int
) -> None:
    found = launch(environ, **given)
    assert (found.topology.ranks, found.nodes, found.node_rank) == (16, 2, 1)
    assert (found.address, found.port, found.deadline) == (address, port, True)


def test_without_a_scheduler_nothing_is_told() -> None:
    # An image may set how patient torchrun is.
    assert read_allotment({"PET_SIGNALS_TO_HANDLE": "SIGTERM"}) == Allotment()
    found = launch({}, ranks=4)
    assert (found.nodes, found.port, found.deadline) == (1, 0, False)


def test_a_pod_that_is_alone_has_a_deadline() -> None:
    found = launch({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ranks=4)
    assert (found.nodes, found.port, found.deadline) == (1, 0, True)


def test_every_value_names_its_source() -> None:
    assert list(read_allotment(SLURM, first).lines()) == [
        "nodes 2 (SLURM_NNODES)",
        "node rank 1 (SLURM_NODEID)",
        "GPUs per node 8 (SLURM_GPUS_ON_NODE)",
        "address gpu07 (SLURM_JOB_NODELIST)",
        "port 23456 (SLURM_JOB_ID)",
    ]


def test_skypilot_may_stand_on_slurm() -> None:
    assert read_allotment(SLURM | SKYPILOT, first).scheduler == "skypilot"


def test_a_step_of_slurm_may_have_fewer_nodes_than_its_job() -> None:
    step = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "gpu08"}
    found = launch(SLURM | step | {"SLURM_NODEID": "0"})
    assert (found.topology.ranks, found.nodes, found.node_rank, found.address, found.port) == (8, 1, 0, None, 0)
    first_of_two = {"SLURM_JOB_NODELIST": "gpu[07-09]", "SLURM_STEP_NODELIST": "gpu[08-09]"}
    assert launch(SLURM | first_of_two).address == "gpu08"


def test_a_job_script_on_one_node_needs_no_srun() -> None:
    script = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_NTASKS": "8", "SLURM_GPUS_ON_NODE": "4"}
    assert launch(script).topology.ranks == 4


def test_gpus_do_not_count_for_ranks_on_cpus() -> None:
    assert launch(SLURM, "cpu").topology.ranks == 2
    assert launch(SLURM, cpu=True, ranks=4).topology.ranks == 4
    assert launch(KUBEFLOW, cpu=True).topology.ranks == 16
    assert launch(SKYPILOT | {"SKYPILOT_NUM_GPUS_PER_NODE": "0"}, ranks=4, cpu=False).topology.ranks == 4


def test_a_job_of_a_sweep_has_an_index_and_is_alone() -> None:
    found = launch({"JOB_COMPLETION_INDEX": "5"}, ranks=8)
    assert (found.nodes, found.node_rank) == (1, 0)


def test_what_torchrun_would_choose_by_itself_is_left_open() -> None:
    with pytest.raises(ConfigError, match="add --ranks N"):
        launch(KUBEFLOW | {"PET_NPROC_PER_NODE": "auto"})


def test_where_nodes_meet_is_a_choice() -> None:
    found = launch(SLURM, address="gpu07-ib0", port=4000)
    assert (found.address, found.port) == ("gpu07-ib0", 4000)


@pytest.mark.parametrize(
    ("environ", "place", "expected"),
    [
        (SLURM, {"nodes": 4}, "--nodes 4, but it is 2 (SLURM_NNODES)"),
        (SLURM, {"node_rank": 0}, "--node-rank 0, but it is 1 (SLURM_NODEID)"),
        (SLURM, {"ranks": 8}, "--ranks 8, but 8 (SLURM_GPUS_ON_NODE) on each of 2 (SLURM_NNODES) nodes make 16"),
        (KUBEFLOW, {"nodes": 1}, "--nodes 1, but it is 2 (PET_NNODES)"),
        (KUBEFLOW, {"ranks": 2, "cpu": True}, "--ranks 2, but 8 (PET_NPROC_PER_NODE) on each of 2 (PET_NNODES)"),
        (SKYPILOT, {"node_rank": 0}, "--node-rank 0, but it is 1 (SKYPILOT_NODE_RANK)"),
        (INDEXED, {"nodes": 2, "node_rank": 0, "address": "a"}, "--node-rank 0, but it is 1 (JOB_COMPLETION_INDEX)"),
    ],
)
def test_contradictions_are_refused_with_both_values(
    environ: dict[str, str], place: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        launch(environ, **place)
    assert f"  {expected}" in str(refused.value)
    assert "--plain" in str(refused.value)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        launch(SLURM, nodes=3, node_rank=2, ranks=3)
    assert len(str(refused.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8"}, "this process is rank 3 of 8 already (RANK, WORLD_SIZE)"),
        (KUBEFLOW | {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, "this process is rank 3 of 8 already"),
        (KUBEFLOW | {"PET_NNODES": "1:4"}, "PET_NNODES=1:4: the number of nodes of a run is fixed"),
        (SKYPILOT | {"SKYPILOT_NUM_NODES": "two"}, "SKYPILOT_NUM_NODES=two: a whole number was expected"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"}, "write srun --ntasks-per-node=1 mypt launch"),
        (SLURM | {"SLURM_NTASKS": "16"}, "16 tasks (SLURM_NTASKS) on 2 nodes (SLURM_NNODES)"),
        (SLURM | {"SLURM_JOB_NODELIST": "gpu[1-"}, "'gpu[1-' is not a Slurm node list"),
    ],
)
def test_where_a_launcher_has_no_place_it_says_so(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_allotment(environ, first)
    assert expected in str(refused.value)


def test_the_older_pytorchjob_counts_nodes_in_rank() -> None:
    assert read_allotment(KUBEFLOW | {"RANK": "1", "WORLD_SIZE": "2"}).node_rank == Told(1, "PET_NODE_RANK")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("n1", ["n1"]),
        ("a,b", ["a", "b"]),
        ("n[1-3,7]", ["n1", "n2", "n3", "n7"]),
        ("gpu[098-101].lab", ["gpu098.lab", "gpu099.lab", "gpu100.lab", "gpu101.lab"]),
        ("login,r[1-2]n[01-02],x-y9", ["login", "r1n01", "r1n02", "r2n01", "r2n02", "x-y9"]),
    ],
)
def test_node_lists_are_expanded_as_slurm_does(nodes: str, expected: list[str]) -> None:
    assert list(node_names(nodes)) == expected


def test_slurms_own_tool_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def scontrol(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        assert command == ["scontrol", "show", "hostnames", "odd{list}"]
        return subprocess.CompletedProcess(command, 0, stdout="n5\nn6\n")

    monkeypatch.setattr(subprocess, "run", scontrol)
    assert first_node("odd{list}") == "n5"


def test_without_slurms_tool_the_list_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert first_node("n[5-6]") == "n5"
