"""The power is cut at any call of a save, on a disk that promises only what was waited for: nothing saved is lost."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from checkpoint_doubles import Died
from checkpoint_scenes import SCENES, Scene, prepared, problems_afterwards
from conftest import SHARED_MEMORY
from counted import SOAK, count
from crash_files import CrashFiles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from missing_safeguards import REMOVALS

from mypt_dist.checkpoint.attempt import Commit
from mypt_dist.world import Solo

CUT = [scene for scene in SCENES if scene.size == 1 and "mirror" not in scene.title]
EXAMPLES = 2_000 if SOAK else 200


class Cutter:
    """Plays a scene again and again, each time until the power is cut."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene, self.folder = scene, folder
        self.template = prepared(scene, folder / "template")
        self.calls = self.play(1 << 30)[0].count

    def play(self, at: int, without: frozenset[str] = frozenset()) -> tuple[CrashFiles, int]:
        """The disk after ``at`` calls, and the last save that was acknowledged."""
        for name in ("root", "after"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        root = shutil.copytree(self.template, self.folder / "root")
        files = CrashFiles(root, at, without)
        acknowledged = [self.scene.needed]
        with suppress(Died):
            self.scene.act(root, Solo(), files, acknowledged.append)
        return files, max(acknowledged)

    def cut(self, at: int, dice: random.Random, share: float, without: frozenset[str] = frozenset()) -> list[str]:
        """What is wrong at the next start when about ``share`` of what nobody waited for is on the disk."""
        files, acknowledged = self.play(at, without)
        kept = [dice.random() < share for _ in files.pending]
        after = files.after_a_cut(kept, lambda: dice.randrange(4) if share < 1 else 0, self.folder / "after")
        return problems_afterwards(after, acknowledged, self.scene.corrupt)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as place:
        yield Path(place)


@pytest.fixture(scope="module")
def cutters(folder: Path) -> list[Cutter]:
    made = []
    for number, scene in enumerate(CUT):
        (folder / str(number)).mkdir()
        made.append(Cutter(scene, folder / str(number)))
    return made


points = 0


@pytest.mark.timeout(900)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_part_of_the_pending_changes_survives_nothing_is_lost(
    cutters: list[Cutter], data: st.DataObject
) -> None:
    global points  # noqa: PLW0603 - counted over all that hypothesis tries
    cutter = data.draw(st.sampled_from(cutters), "scene")
    files, acknowledged = cutter.play(data.draw(st.integers(0, cutter.calls), "calls"))
    size = len(files.pending)
    kept = data.draw(st.lists(st.booleans(), min_size=size, max_size=size), "kept")
    after = files.after_a_cut(kept, lambda: data.draw(st.integers(0, 3), "content"), cutter.folder / "after")
    assert problems_afterwards(after, acknowledged, cutter.scene.corrupt) == []
    points += 1


@pytest.mark.timeout(900)
def test_at_every_call_all_none_and_some_of_the_pending_changes_survive(cutters: list[Cutter]) -> None:
    dice = random.Random(0)
    tried, found = 0, []
    for cutter in cutters[: None if SOAK else 2]:
        for at in range(cutter.calls + 1):
            for share in (0.0, 0.3, 0.7, 1.0):
                place = f"{share:.0%} of what was pending after call {at}: {cutter.scene.title}"
                found += [f"{problem} [{place}]" for problem in cutter.cut(at, dice, share)]
                tried += 1
    count(
        "power cut at every call, on a simulated disk that keeps any part of what nobody waited for",
        "the last acknowledged checkpoint or a newer one is loaded, whole",
        points=tried + points,
        lost=len(found),
    )
    assert found == []


def noticed(cutter: Cutter, without: frozenset[str] = frozenset()) -> list[str]:
    dice = random.Random(0)
    for at in range(cutter.calls, -1, -1):
        for share in (0.0, 0.5, 0.9):
            if problems := cutter.cut(at, dice, share, without):
                return problems
    return []


@pytest.mark.parametrize("wait", ["file", "inner", "attempt", "root"])
def test_without_waiting_for_the_disk_a_power_cut_does_lose(cutters: list[Cutter], wait: str) -> None:
    assert noticed(cutters[0], frozenset({wait}))


def test_without_the_manifest_as_last_file_a_power_cut_does_lose(
    cutters: list[Cutter], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_write_manifest", "_put_in_place"):
        monkeypatch.setattr(Commit, name, getattr(Commit, name))
    REMOVALS["manifest-last"]()
    assert noticed(cutters[0])
