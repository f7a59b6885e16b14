"""`mypt launch` as its users meet it: what it prints, checks, executes and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.cli import main
from mypt_dist.launch.files import targets

pytestmark = pytest.mark.e2e


class Executed(Exception):
    """What this process would have become."""

    def __init__(self, file: str, arguments: list[str], environ: dict[str, str]) -> None:
        super().__init__(file, arguments, environ)
        self.arguments, self.environ = arguments, environ


@pytest.fixture
def mypt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``mypt(...)``: exit code, stdout, stderr."""

    def execute(*arguments: Any) -> None:
        raise Executed(*arguments)

    monkeypatch.setattr(os, "execvpe", execute)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_help_and_list_need_no_torch() -> None:
    for option, seen in (("--help", "Usage: mypt launch"), ("--list", "zero3-offload")):
        code = "import sys\nfrom mypt_dist.cli import main\n"
        code += f"try: main(['launch', '{option}'])\nexcept SystemExit: pass\n"
        code += "assert not {'torch', 'accelerate', 'deepspeed', 'mlflow'} & set(sys.modules), sorted(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert seen in done.stdout


def test_targets_are_listed_with_what_they_are_for(mypt: Any) -> None:
    code, out, _ = mypt("launch", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [file.name for file in targets()]
    listed = json.loads(mypt("launch", "--list", "--json")[1])
    assert [entry["engine"] for entry in listed if entry["name"].startswith("fsdp2")] == ["fsdp2"] * 3
    assert all(len(entry["description"]) > 20 for entry in listed)


def test_a_dry_run_prints_the_command_and_starts_nothing(mypt: Any, run_file: Path) -> None:
    code, out, err = mypt("launch", "ddp", run_file, "train.steps=2", "--ranks", "4", "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("MYPT_EXPECT_RANKS=4 ")
    assert out.endswith(f"-m mypt_dist train {run_file} train.steps=2\n")
    code, out, _ = mypt("launch", "zero2", run_file, "--ranks", "4", "--json")
    described = json.loads(out)
    assert described["topology"]["engine"] == "zero2"
    assert described["environment"]["MYPT_EXPECT_RANKS"] == "4"
    assert described["command"][-2:] == ["train", str(run_file)]


def test_a_scheduler_is_heard_unless_told_otherwise(mypt: Any, run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYPILOT_NODE_RANK", "0")
    monkeypatch.setenv("SKYPILOT_NUM_GPUS_PER_NODE", "4")
    told = json.loads(mypt("launch", "ddp", run_file, "--json")[1])
    assert told["topology"]["ranks"] == 4
    assert told["allotment"]["scheduler"] == "skypilot"
    assert told["allotment"]["gpus_per_node"] == {"value": 4, "source": "SKYPILOT_NUM_GPUS_PER_NODE"}
    code, out, err = mypt("launch", "ddp", run_file, "--ranks", "2")
    assert (code, out) == (2, "")
    assert "--ranks 2, but 4 (SKYPILOT_NUM_GPUS_PER_NODE) on each of 1 nodes make 4" in err
    plain = json.loads(mypt("launch", "ddp", run_file, "--ranks", "2", "--plain", "--json")[1])
    assert (plain["topology"]["ranks"], plain["allotment"]["scheduler"]) == (2, "plain")


def test_the_process_becomes_the_launcher_and_says_how(mypt: Any, run_file: Path) -> None:
    with pytest.raises(Executed) as became:
        mypt("launch", "cpu", run_file, "--ranks", "4", "--allow-change", "train.seed")
    assert became.value.arguments[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert became.value.arguments[-4:] == ["train", str(run_file), "--allow-change", "train.seed"]
    assert became.value.environ["ACCELERATE_USE_CPU"] == "true"
    assert became.value.environ["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ddp", "RUN", "--ranks", "3"], "train.batch_size 8 cannot be shared by 3 ranks"),
        (["ddp", "RUN", "train.micro_batch=8", "--ranks", "2"], "train.micro_batch 8 does not divide the 4 windows"),
        (["ddp", "RUN", "train.stepz=8", "--ranks", "2"], "train.stepz: unknown key, did you mean 'steps'?"),
        (["ddp", "no-such-run", "--ranks", "2"], "'no-such-run' is neither a file nor a preset"),
        (["zero4", "RUN"], "'zero4' is neither a file nor a launch target, did you mean 'zero"),
        (["ddp", "RUN"], "ddp.yaml leaves the number of ranks to you: add --ranks N"),
        (["ddp"], "mypt launch needs a TARGET and a RUNFILE; mypt launch --list shows the targets"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    mypt: Any, run_file: Path, arguments: list[str], expected: str
) -> None:
    code, out, err = mypt("launch", *(str(run_file) if text == "RUN" else text for text in arguments))
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


def test_a_launch_file_that_owns_mathematics_is_refused(mypt: Any, run_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: bf16\n")
    code, _, err = mypt("launch", path, run_file)
    assert code == 2
    assert "'bf16' belongs to the run file: remove it here and set train.precision there" in err
