"""A save, a deletion or a start is killed at every one of its file-system calls: nothing acknowledged is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_scenes import SCENES
from counted import SOAK, count
from missing_safeguards import REMOVALS

DRIVER = Path(__file__).parent / "kill_points.py"
ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, [ROOT, ROOT / "tests/unit/checkpoint"]))
PLAYED = [scene.title for scene in SCENES if SOAK or not scene.long]


def swept(*arguments: str) -> dict[str, dict[str, Any]]:
    command, environment = [sys.executable, str(DRIVER), *arguments], {**os.environ, "PYTHONPATH": PATHS}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return {told["title"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def sweeps() -> dict[str, dict[str, Any]]:
    return swept(*PLAYED)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("title", PLAYED)
def test_kill_9_at_every_call_loses_nothing_shows_nothing_half_and_leaves_nothing(
    sweeps: dict[str, dict[str, Any]], title: str
) -> None:
    assert sweeps[title]["problems"] == []


def test_there_were_as_many_points_as_promised(sweeps: dict[str, dict[str, Any]]) -> None:
    points = sum(told["points"] for told in sweeps.values())
    found = [problem for told in sweeps.values() for problem in told["problems"]]
    kinds = {kind: sum(problem.startswith(kind) for problem in found) for kind in ("lost", "corrupt", "litter")}
    count(
        "kill -9 at every call of saving, deleting, setting aside, finding, undoing and mirroring, on 1 to 3 ranks",
        "the last acknowledged checkpoint or a newer one is loaded, whole; the next save leaves no litter",
        points=points,
        **kinds,
    )
    assert points >= 1000
    assert not found


TWINS = {
    "trash": ("a save and the deletion of an older checkpoint", "corrupt"),
    "rename": ("a save and the deletion of an older checkpoint", "corrupt"),
    "manifest-last": ("a save and the deletion of an older checkpoint", "corrupt"),
    "order-of-deletion": ("a save and the deletion of an older checkpoint", "lost"),
    "aside": ("a save of a step that exists", "lost"),
    "finding-aside": ("a save of a step that exists", "lost"),
    "tidying": ("a save that cleans up after three that died", "litter"),
}


@pytest.mark.parametrize("safeguard", REMOVALS)
def test_without_a_safeguard_the_sweep_notices(safeguard: str) -> None:
    title, kind = TWINS[safeguard]
    found = swept("--without", safeguard, title)[title]["problems"]
    assert any(problem.startswith(kind) for problem in found), found
