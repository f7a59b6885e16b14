"""How long a run may take to save when it is stopped: the same everywhere, and never less than the launcher waits."""

import re
from pathlib import Path

from launch_files import LAUNCH, documents

from mypt_dist.launch.command import GRACE_S, LAST_WORDS_S, SHUTDOWN_TIMEOUT_S

ROOT = Path(__file__).parents[2]
POD_S = 30
"""For a pod beside its trainer."""


def test_pods_have_the_grace_period_and_some_time_for_themselves() -> None:
    texts = {path.name: path.read_text() for path in (LAUNCH / "kubernetes").glob("*.yaml")}
    found = {name: re.findall(r"terminationGracePeriodSeconds: (\d+)", text) for name, text in texts.items()}
    given = {name: {int(seconds) for seconds in each} for name, each in found.items() if each}
    assert given == {name: {GRACE_S + POD_S} for name in ("job.yaml", "jobset.yaml", "trainjob.yaml")}


def test_slurm_warns_as_long_before_the_end() -> None:
    for path in (LAUNCH / "slurm").glob("*.sbatch"):
        assert re.findall(r"^#SBATCH.* ?--signal=\S+@(\d+)", path.read_text(), re.MULTILINE) == [str(GRACE_S)], path


def test_compose_waits_as_long() -> None:
    for path in (ROOT / "docker").glob("compose*.yaml"):
        (content,) = documents(path)
        periods = {name: service.get("stop_grace_period") for name, service in content["services"].items()}
        trainers = {period for name, period in periods.items() if name.startswith("trainer")}
        assert trainers == {f"{GRACE_S // 60}m"}, path


def test_the_image_does_not_outwait_a_scheduler() -> None:
    for path in ROOT.glob("Dockerfile"):
        for seconds in re.findall(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", path.read_text()):
            assert int(seconds) <= GRACE_S - LAST_WORDS_S, "mypt launch leaves alone what the image sets"


def test_the_page_says_so() -> None:
    page = (ROOT / "docs/reference/grace-periods.md").read_text()
    numbers = {int(number) for number in re.findall(r"\b(\d+)\b", page)}
    assert {GRACE_S, GRACE_S + POD_S, GRACE_S - LAST_WORDS_S, SHUTDOWN_TIMEOUT_S} <= numbers
