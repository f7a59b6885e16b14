import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mypt_dist.cli import container
from mypt_dist.cli.container import command, folder_problems, gpu_problems, shared_memory_problems, temporary_folder

MIB = 1 << 20
Enter = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs that print their names and arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "mlflow", "mypt", "plan"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def enter(programs: Path, tmp_path: Path) -> Enter:
    """Start the entry point where there are no GPUs and no other programs."""
    inherited = {"PATH": str(programs), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "CUDA_VISIBLE_DEVICES": ""}

    def start(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        program = [sys.executable, "-m", "mypt_dist.cli.container", *arguments]
        return subprocess.run(
            program, capture_output=True, text=True, check=False, cwd=tmp_path, env=inherited | environment
        )

    return start


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        ([], ["mypt", "--help"]),
        (["--version"], ["mypt", "--version"]),
        (["train", "small", "train.steps=5"], ["mypt", "train", "small", "train.steps=5"]),
        (["quickstart"], ["mypt", "quickstart"]),
        (["doctor", "--json"], ["mypt", "doctor", "--json"]),
        (["data", "prepare", "texts"], ["mypt", "data", "prepare", "texts"]),
        (["plan", "small"], ["mypt", "plan", "small"]),
        (["shell"], ["bash"]),
        (["mlflow", "server"], ["mlflow", "server"]),
        (["/bin/sh", "-c", "true"], ["/bin/sh", "-c", "true"]),
        (["trian", "small"], ["mypt", "trian", "small"]),
    ],
)
def test_each_command_becomes_its_program(arguments: list[str], started: list[str], programs: Path) -> None:
    assert command(arguments, {"PATH": str(programs)}, 0) == started


def test_the_entry_point_is_replaced_by_the_command(enter: Enter) -> None:
    done = enter("runs", "alive", "runs")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mypt runs alive runs\n", "")


def test_without_the_gpus_that_it_requires_nothing_is_started(enter: Enter) -> None:
    done = enter("train", "small", MYPT_REQUIRE_GPU="8")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("mypt: 0 GPUs are visible, MYPT_REQUIRE_GPU asks for 8: start with --gpus all")


def test_other_lacks_are_told_in_a_line_each_and_left_to_the_command(enter: Enter, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    (tmp_path / "runs").chmod(0o444)
    done = enter("train", "small", "out=elsewhere")
    assert (done.returncode, done.stdout) == (0, "mypt train small out=elsewhere\n")
    assert done.stderr.startswith(f"mypt: {tmp_path}/runs cannot be written by uid {os.getuid()}: mount a folder")


def test_train_on_several_gpus_is_a_launch_that_keeps_the_exit_codes_of_ranks() -> None:
    arguments = ["train", "run.json", "train.steps=5"]
    launch = ["mypt", "launch", "ddp", "run.json", "train.steps=5", "--ranks", "8", "--supervise"]
    assert command(arguments, {}, 8) == launch
    assert command(arguments, {"MYPT_TARGET": "fsdp2"}, 8)[2] == "fsdp2"
    assert command(arguments, {}, 1) == ["mypt", *arguments]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["train", "small"], ["runs", ".cache"]),
        (["launch", "ddp"], ["runs", ".cache"]),
        (["quickstart"], ["runs", ".cache"]),
        (["data", "prepare"], ["data", ".cache"]),
        (["data", "inspect"], []),
        (["doctor"], []),
        ([], []),
    ],
)
def test_folders_that_a_command_writes_must_be_writable(
    arguments: list[str], missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(folder_problems(arguments, tmp_path)) == []
    monkeypatch.setattr(container.os, "access", lambda path, mode: tmp_path not in (path, *path.parents))
    found = [problem.split(" cannot be written by uid ")[0] for problem in folder_problems(arguments, tmp_path)]
    assert found == [str(tmp_path / name) for name in missing]


@pytest.mark.parametrize(
    ("wanted", "gpus", "fine"),
    [("", 0, True), ("0", 0, True), ("1", 0, False), ("1", 1, True), ("8", 7, False), ("all", 8, False)],
)
def test_a_run_begins_with_as_many_gpus_as_it_requires(wanted: str, gpus: int, fine: bool) -> None:
    assert (list(gpu_problems(["train"], {"MYPT_REQUIRE_GPU": wanted}, gpus)) == []) is fine
    assert list(gpu_problems(["shell"], {"MYPT_REQUIRE_GPU": wanted}, gpus)) == [] or wanted == "all"


@pytest.mark.parametrize(
    ("size", "gpus", "fine"),
    [(64 * MIB, 1, True), (64 * MIB, 2, False), (None, 2, False), (200 * MIB, 8, False), (1024 * MIB, 8, True)],
)
def test_several_gpus_need_more_shared_memory_than_docker_gives(size: int | None, gpus: int, fine: bool) -> None:
    found = list(shared_memory_problems(["train"], size, gpus))
    assert (found == []) is fine
    assert fine or "--shm-size" in found[0]
    assert list(shared_memory_problems(["doctor"], size, gpus)) == []


def test_where_tmp_cannot_be_written_temporary_files_go_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert temporary_folder({}) == {}
    monkeypatch.setattr(container.os, "access", lambda path, mode: False)
    assert temporary_folder({"TMPDIR": "/elsewhere"}) == {}
    assert temporary_folder({"XDG_CACHE_HOME": str(tmp_path)}) == {"TMPDIR": str(tmp_path / "tmp")}
    assert (tmp_path / "tmp").is_dir()
    (tmp_path / "file").touch()
    assert temporary_folder({"XDG_CACHE_HOME": str(tmp_path / "file")}) == {}
