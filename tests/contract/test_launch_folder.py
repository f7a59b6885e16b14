"""What holds for every file below launch/."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mypt_dist.config.presets import folder

ROOT = Path(__file__).parents[2]


def test_yamllint_finds_nothing() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(ROOT / ".yamllint.yaml"), str(folder("launch"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_table_leads_to_every_file() -> None:
    table = (folder("launch") / "README.md").read_text()
    files = [path.relative_to(folder("launch")).as_posix() for path in folder("launch").rglob("*.*") if path.is_file()]
    missing = [name for name in files if f"]({name})" not in table and name != "README.md"]
    # One entry leads to all of DeepSpeed's own files.
    assert [name for name in missing if not name.startswith("deepspeed/")] == []


def by_hand(program: str) -> list[str]:
    """Commands of the README and of the pages that start with ``program``."""
    pages = [folder("launch") / "README.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    return sorted({line for line in lines if line.startswith(program) and "…" not in line})


@pytest.mark.parametrize("line", by_hand("accelerate launch --"))
def test_accelerate_understands_what_is_given_by_hand(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.chdir(ROOT)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(shlex.split(line)[2:]))
    assert (args.module, args.training_script, args.training_script_args) == (True, "mypt_dist", ["train", "RUNFILE"])
    assert args.num_processes == 8 * args.num_machines
    assert args.use_fsdp or args.multi_gpu or args.use_deepspeed
    assert not args.use_deepspeed or args.num_machines == 1 or args.deepspeed_multinode_launcher == "standard"


@pytest.mark.parametrize("line", by_hand("torchrun --"))
def test_torchrun_understands_what_is_given_by_hand(line: str) -> None:
    from torch.distributed.run import config_from_args, get_args_parser

    config, _, arguments = config_from_args(get_args_parser().parse_args(shlex.split(line)[1:]))
    assert config.nproc_per_node == 8
    assert config.max_nodes in (1, 2)
    assert arguments[-3:] == ["mypt_dist", "train", "RUNFILE"]
