"""The job scripts for Slurm, with stand-ins for Slurm itself: what they start, and put back into the queue."""

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "launch/slurm"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sbatch"))

SRUN = """\
#!/bin/bash
printf '%q ' "$@" >>"$CALLS/srun.called"
if [ -n "${CHECKPOINT:-}" ]; then mkdir -p "$RUN/checkpoints/step-$CHECKPOINT"; fi
if [ -n "${TELL_SCRIPT:-}" ]; then kill -TERM $PPID; fi
exit "$CODE"
"""
SCONTROL = """\
#!/bin/bash
echo "$@" >>"$CALLS/scontrol.called"
"""


@dataclass
class Job:
    """Starts of one job, in a folder of its own."""

    folder: Path

    def start(
        self, code: int = 0, script: str = "train.sbatch", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The script, with tasks that end with ``code``."""
        own = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "CALLS": str(self.folder),
            "SLURM_JOB_ID": "77",
            "LAUNCH": str(FOLDER),
            "RUNFILE": "some/run.json",
            "RUN": str(self.folder / "run"),
            "IMAGE": "mypt.sif",
            "CODE": str(code),
        }
        command = ["bash", str(FOLDER / script), "train.steps=5", "data.path=with space"]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, env={**own, **environment}
        )

    def started(self) -> list[str]:
        """What ``srun`` was given."""
        return shlex.split((self.folder / "srun.called").read_text())

    def requeued(self) -> int:
        """How often."""
        calls = self.folder / "scontrol.called"
        return calls.read_text().splitlines().count("requeue 77") if calls.exists() else 0


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return Job(tmp_path)


@pytest.mark.parametrize("code", [7, 9, 134, 135, 137, 138, 139, 143])
def test_what_may_pass_is_put_back_into_the_queue(code: int, job: Job) -> None:
    assert job.start(code).returncode == code
    assert job.requeued() == 1


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 8, 129, 130])
def test_what_is_done_or_would_happen_again_is_not(code: int, job: Job) -> None:
    assert job.start(code).returncode == code
    assert job.requeued() == 0


def test_what_slurm_itself_ends_is_left_to_it(job: Job) -> None:
    """It is cancelled, or in the queue again."""
    assert job.start(143, TELL_SCRIPT="yes").returncode == 143
    assert job.requeued() == 0


def test_a_crash_loop_ends(job: Job) -> None:
    for code in (9, 7):
        job.start(code)
    last = job.start(137)
    assert "3 starts in a row without a new checkpoint, given up; exit codes: 9 7 137" in last.stderr
    assert (last.returncode, job.requeued()) == (137, 2)


def test_a_new_checkpoint_sets_its_count_back(job: Job) -> None:
    for number in range(1, 4):
        job.start(9)
        job.start(9)
        job.start(9, CHECKPOINT=f"{number:08}")
    assert job.requeued() == 9


def test_a_checkpoint_that_is_not_committed_does_not(job: Job) -> None:
    for number in range(3):
        last = job.start(9, CHECKPOINT=f"0000000{number}.partial-1")
    assert "given up" in last.stderr


def test_without_a_run_file_nothing_is_started(job: Job) -> None:
    done = job.start(RUNFILE="")
    assert (done.returncode, done.stderr.startswith("mypt: no run file")) == (2, True)
    assert not (job.folder / "srun.called").exists()


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "train.sbatch"])
def test_without_an_image_no_container_is_started(script: str, job: Job) -> None:
    done = job.start(script=script, IMAGE="")
    assert (done.returncode, done.stderr.startswith("mypt: no image")) == (2, True)
    assert not (job.folder / "srun.called").exists()


def test_each_node_gets_one_mypt_launch(job: Job) -> None:
    job.start(TARGET="fsdp2")
    arguments = job.started()
    launch = arguments.index("mypt")
    assert "--ntasks-per-node=1" in arguments[:launch]
    out = f"out={job.folder}/run"
    given = ["fsdp2", "some/run.json", out, "train.steps=5", "data.path=with space"]
    assert arguments[launch:] == ["mypt", "launch", *given, "--supervise", "--max-restarts=0"]


def test_the_folder_of_a_run_has_its_file_s_name(job: Job) -> None:
    job.start(RUN="")
    assert "out=runs/run" in job.started()


def test_pyxis_starts_the_same_in_a_container(job: Job) -> None:
    job.start(script="train-pyxis.sbatch", MOUNTS="/data:/data")
    options, inside = _halves(job)
    here = job.folder
    assert f"--container-mounts={here}:{here},/data:/data" in options
    assert {"--container-image=mypt.sif", f"--container-workdir={here}"} <= set(options)
    assert inside[0] == "env"


def test_apptainer_starts_the_same_in_a_container(job: Job) -> None:
    job.start(script="train-apptainer.sbatch", MOUNTS="/data")
    _, inside = _halves(job)
    here = str(job.folder)
    assert inside == ["apptainer", "exec", "--nv", "--no-home", "--bind", f"{here},/data", "--pwd", here, "mypt.sif"]


def _halves(job: Job) -> tuple[list[str], list[str]]:
    """Options of ``srun``, and what stands between them and ``mypt``."""
    before = job.started()[: job.started().index("mypt")]
    first = next(place for place, word in enumerate(before) if not word.startswith("--"))
    return before[:first], before[first:]


def test_all_scripts_ask_slurm_for_the_same() -> None:
    asked = {name: re.findall(r"^#SBATCH (.*)$", (FOLDER / name).read_text(), re.MULTILINE) for name in SCRIPTS}
    assert len(asked) == 3
    assert all(lines == asked["train.sbatch"] for lines in asked.values())
    assert {"--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(asked["train.sbatch"])
