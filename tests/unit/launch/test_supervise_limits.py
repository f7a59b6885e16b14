"""What the command line may say of restarts, and what the launcher is told of signals."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.cli.supervise import Limits, check_limits, newest_step
from mypt_dist.errors import ConfigError
from mypt_dist.launch.command import SIGNALS, command
from mypt_dist.launch.files import read_launch_file
from mypt_dist.launch.plan import Place, plan


@pytest.mark.parametrize(
    ("target", "place", "limits", "expected"),
    [
        ("ddp", Place(ranks=4), Limits(min_ranks=5), "--min-ranks 5 is more than the 4 ranks"),
        ("ddp", Place(ranks=4, nodes=2, node_rank=0, address="a"), Limits(min_ranks=2), "needs a single machine"),
        (
            "hsdp",
            Place(ranks=4, nodes=1, replicas=2),
            Limits(min_ranks=2),
            "fixes replicas x shards = 4 ranks; use fsdp2",
        ),
    ],
)
def test_fewer_ranks_are_refused_where_they_cannot_be(target: str, place: Place, limits: Limits, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_limits(plan(read_launch_file(target), place), limits, supervise=True)


def test_gpus_that_are_named_cannot_become_fewer(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\ngpu_ids: '0,1'\n")
    file = read_launch_file(str(path))
    with pytest.raises(ConfigError, match="gpu_ids: all"):
        check_limits(plan(file, Place()), Limits(min_ranks=1), supervise=True)
    check_limits(plan(file, Place(cpu=True)), Limits(min_ranks=1), supervise=True)


def test_limits_without_a_supervisor_are_a_mistake() -> None:
    launch = plan(read_launch_file("ddp"), Place(ranks=4))
    for limits in (Limits(min_ranks=2), Limits(restarts=0)):
        with pytest.raises(ConfigError, match="need --supervise"):
            check_limits(launch, limits, supervise=False)
    check_limits(launch, Limits(), supervise=False)
    check_limits(launch, Limits(restarts=0, min_ranks=2), supervise=True)


def test_the_newest_step_is_read_from_names_of_whole_checkpoints(tmp_path: Path) -> None:
    assert newest_step(tmp_path / "none") == 0
    for name in ("step-00000003", "step-00000010", "step-00000020.partial-1", "step-00000030.corrupt", "else"):
        (tmp_path / name).mkdir()
    assert newest_step(tmp_path) == 10
    (tmp_path / "file").touch()
    assert newest_step(tmp_path / "file") == 0


@pytest.mark.parametrize("target", ["ddp", "zero2"])
def test_torchrun_gets_the_signals_that_accelerate_has_no_option_for(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import _filter_args
    from torch.distributed.run import config_from_args, get_args_parser

    found = command(plan(read_launch_file(target), Place(ranks=4)), ["train", "x"], {}, 8)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(found.arguments[3:]))
    script: list[Any] = ["--training_script", args.training_script, "--training_script_args"]
    config, _, _ = config_from_args(_filter_args(args, get_args_parser(), [*script, *args.training_script_args]))
    assert config.signals_to_handle == SIGNALS
    assert config.shutdown_timeout == 600


def test_a_supervisor_stays_small(run_file: Path) -> None:
    """It lives as long as the run, in the memory that the ranks need."""
    code = (
        "import sys\n"
        "import mypt_dist.launch.supervision as s\n"
        "s.supervise = lambda job: (job.newest_step(), job.command(job.ranks), job.at_most(1), 0)[-1]\n"
        "from mypt_dist.cli import main\n"
        f"try: main(['launch', 'cpu', {str(run_file)!r}, '--supervise', '--min-ranks', '1'])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'accelerate', 'deepspeed', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
