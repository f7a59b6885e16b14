"""The command that `mypt launch` executes, and what Accelerate hands to the ranks because of it."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.config.presets import folder
from mypt_dist.launch.command import Command, command
from mypt_dist.launch.environment import topology_from_environ
from mypt_dist.launch.files import read_launch_file, targets
from mypt_dist.launch.plan import Place, plan

CHECKOUT = folder("launch").parent
EIGHT_CORES = 8


def command_of(target: str, place: Place, environ: Mapping[str, str] | None = None, *overrides: str) -> Command:
    return command(plan(read_launch_file(target), place), ["train", "run.json", *overrides], environ or {}, EIGHT_CORES)


SIGNALS = "PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "

GOLDEN = {
    ("single", Place()): "MYPT_EXPECT_RANKS=1 python -m mypt_dist train run.json",
    ("single", Place(cpu=True)): (
        "MYPT_EXPECT_RANKS=1 DS_ACCELERATOR=cpu ACCELERATE_USE_CPU=true OMP_NUM_THREADS=8 "
        "python -m mypt_dist train run.json"
    ),
    ("cpu", Place()): (
        "MYPT_EXPECT_RANKS=2 DS_ACCELERATOR=cpu ACCELERATE_USE_CPU=true OMP_NUM_THREADS=4 "
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 " + SIGNALS + "python -m accelerate.commands.launch "
        "--config_file launch/accelerate/cpu.yaml --num_processes 2 --num_machines 1 --main_process_port 0 "
        "-m mypt_dist train run.json"
    ),
    ("ddp", Place(ranks=16, nodes=2, node_rank=1, address="node0")): (
        "MYPT_EXPECT_RANKS=16 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 " + SIGNALS + "python -m accelerate.commands.launch "
        "--config_file launch/accelerate/ddp.yaml --num_processes 16 --num_machines 2 --machine_rank 1 "
        "--main_process_ip node0 --main_process_port 29500 --rdzv_backend static -m mypt_dist train run.json"
    ),
    ("hsdp", Place(ranks=8, nodes=1, replicas=4)): (
        "MYPT_EXPECT_RANKS=8 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 " + SIGNALS + "python -m accelerate.commands.launch "
        "--config_file launch/accelerate/hsdp.yaml --num_processes 8 --num_machines 1 --main_process_port 0 "
        "--parallelism_config_dp_replicate_size 4 --parallelism_config_dp_shard_size 2 -m mypt_dist train run.json"
    ),
    ("zero3", Place(ranks=16, nodes=2, node_rank=0, address="node0", port=7)): (
        "MYPT_EXPECT_RANKS=16 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 " + SIGNALS + "python -m accelerate.commands.launch "
        "--config_file launch/accelerate/zero3.yaml --num_processes 16 --num_machines 2 --machine_rank 0 "
        "--main_process_ip node0 --main_process_port 7 --rdzv_backend static --deepspeed_multinode_launcher standard "
        "-m mypt_dist train run.json"
    ),
    ("deepspeed/zero2", Place(ranks=2, cpu=True)): (
        "MYPT_EXPECT_RANKS=2 DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=4 "
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 " + SIGNALS + "python -m accelerate.commands.launch "
        "--config_file launch/accelerate/deepspeed.yaml --num_processes 2 --num_machines 1 --main_process_port 0 "
        "--deepspeed_config_file launch/deepspeed/zero2.json -m mypt_dist train run.json"
    ),
}


@pytest.mark.parametrize(("target", "place"), GOLDEN)
def test_the_command_is_what_it_has_been(target: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(sys, "executable", "python")
    assert command_of(target, place).shell() == GOLDEN[target, place]


def test_what_is_set_already_is_left_as_it_is() -> None:
    environ = {
        "OMP_NUM_THREADS": "3",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
        "PET_SIGNALS_TO_HANDLE": "X",
        "MYPT_EXPECT_RANKS": "9",
    }
    assert command_of("cpu", Place(), environ).environment == {
        "MYPT_EXPECT_RANKS": "2",
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_CPU": "true",
    }
    many = command(plan(read_launch_file("cpu"), Place(ranks=32)), [], {}, EIGHT_CORES)
    assert many.environment["OMP_NUM_THREADS"] == "1"


def test_a_command_can_be_pasted_into_a_shell() -> None:
    found = command_of("cpu", Place(), {}, "name=a b", "about.description=it's")
    assert found.arguments[-2:] == ["name=a b", "about.description=it's"]
    assert found.shell().endswith("""'name=a b' 'about.description=it'"'"'s'""")


def test_files_elsewhere_are_named_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = command_of("deepspeed/zero2", Place(ranks=2)).arguments
    assert str(CHECKOUT / "launch/accelerate/deepspeed.yaml") in arguments
    assert str(CHECKOUT / "launch/deepspeed/zero2.json") in arguments


def test_one_process_is_pinned_to_the_gpu_that_the_file_names(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 1\ngpu_ids: '3'\n")
    assert command_of(str(path), Place()).environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in command_of(str(path), Place(cpu=True)).environment


def prepared(found: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, str]]:
    """What `accelerate launch`, called like this, makes of its arguments, and the environment of the ranks."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(found.arguments[3:]))
    # Both arms of launch_command that start ranks; any other starts a single process.
    assert args.use_deepspeed or args.use_fsdp or args.multi_gpu
    if not args.use_deepspeed:
        return args, prepare_multi_gpu_env(args)
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return args, prepare_deepspeed_cmd_env(args)[1]


def variables_of_ranks(found: Command, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of every rank."""
    if found.is_rank:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        return dict(os.environ)
    args, environ = prepared(found, monkeypatch)
    return {**environ, "WORLD_SIZE": str(int(args.nproc_per_node) * args.num_machines)}


TARGETS = [file.name for file in targets()]
PLACES = [(target, False) for target in TARGETS]
# On CPUs there is nothing that FSDP2 could offload from.
PLACES += [(target, True) for target in TARGETS if target != "fsdp2-offload"]


@pytest.mark.parametrize(("target", "cpu"), PLACES)
def test_ranks_find_in_their_environment_what_the_file_says(
    target: str, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, replicas = {"single": (1, None), "hsdp": (4, 2)}.get(target, (4, None))
    place = Place(ranks=ranks, nodes=1, replicas=replicas, cpu=cpu)
    launch = plan(read_launch_file(target), place)
    environ = variables_of_ranks(command(launch, ["train", "x"], {}, EIGHT_CORES), monkeypatch)
    assert topology_from_environ(environ) == launch.topology
    assert environ.get("ACCELERATE_GRADIENT_CLIPPING", "none") == "none"
    assert environ.get("ACCELERATE_MIXED_PRECISION", "no") == "no"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("target", ["ddp", "hsdp", "zero3"])
def test_several_machines_meet_at_the_address(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    place = Place(ranks=16, nodes=2, node_rank=1, address="node0", port=free_port())
    launch = plan(read_launch_file(target), place)
    found = command(launch, [], {}, EIGHT_CORES)
    assert topology_from_environ(variables_of_ranks(found, monkeypatch)) == launch.topology
    args: Any
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(found.arguments[3:]))
    # What accelerate launch does with these, a test that starts two launchers shows.
    meeting = (args.machine_rank, args.main_process_ip, args.same_network, args.rdzv_backend)
    assert meeting == (1, "node0", False, "static")


def test_accelerate_still_passes_over_how_a_yaml_says_machines_meet(tmp_path: Path) -> None:
    """Which is why the command says it: fails when a new Accelerate reads it, and this can go."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = tmp_path / "two.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 4\nrdzv_backend: c10d\n")
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(path), "x.py"]))
    assert args.rdzv_backend == "static"
    place = Place(node_rank=0, address="a")
    assert "c10d" in command(plan(read_launch_file(str(path)), place), [], {}, 1).arguments


@pytest.mark.parametrize("target", ["ddp", "zero3"])
def test_torchruns_own_variables_do_not_change_the_command(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeflow Trainer sets them for torchrun, which `accelerate launch` is made of: only our options may count."""
    from accelerate.utils.launch import _filter_args
    from torch.distributed.run import get_args_parser

    others = {"PET_NNODES": "7", "PET_NODE_RANK": "5", "PET_NPROC_PER_NODE": "auto", "PET_RDZV_ENDPOINT": "elsewhere:1"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    place = Place(ranks=16, nodes=2, node_rank=1, address="node0", port=free_port())
    args, _ = prepared(command_of(target, place), monkeypatch)
    script = ["--training_script", args.training_script, "--training_script_args", args.training_script_args]
    run = _filter_args(args, get_args_parser(), script)
    assert (run.nnodes, run.node_rank, run.nproc_per_node, run.rdzv_backend) == ("2", 1, "8", "static")
    assert run.rdzv_endpoint == f"node0:{place.port}"
    assert "SIGUSR1" in run.signals_to_handle
