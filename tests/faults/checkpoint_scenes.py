"""What happens to a folder of checkpoints while faults strike, and what must hold of it afterwards."""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoint_doubles import quick_disk, random_state, read_whole, same, save_dealt

from mypt_dist.checkpoint import (
    CheckpointStore,
    Disk,
    Files,
    Mirror,
    MirrorTarget,
    Retention,
    list_checkpoints,
    open_checkpoint,
)
from mypt_dist.checkpoint import verify_checkpoint as verify
from mypt_dist.errors import CheckpointError
from mypt_dist.world import Solo, World

RULES = Retention(keep_last=2, keep_best=None)
SAVED = 2
"""Checkpoints that are there, and acknowledged, before anything happens: steps 1 and 2."""

Acknowledge = Callable[[int], None]
"""Called with the number of a save once it was reported as safe."""


def store(root: Path, world: World | None = None, files: Files | None = None) -> CheckpointStore:
    return CheckpointStore(root, world or Solo(), RULES, disk=quick_disk(files))


def save(checkpoints: CheckpointStore, world: World, step: int, number: int) -> None:
    """Save the ``number``-th state of the scene."""
    save_dealt(checkpoints, world, step, random_state(number))


def number_of(state: dict) -> int:  # type: ignore[type-arg]
    """Which save wrote this."""
    return int(state["optimizer/step/token.weight"]) - 3


@dataclass(frozen=True)
class Scene:
    """``act`` is done by every one of ``size`` ranks to a folder with `SAVED` checkpoints and what ``prepare`` adds."""

    title: str
    act: Callable[[Path, World, Files, Acknowledge], None]
    prepare: Callable[[Path], None] = lambda root: None
    size: int = 1
    corrupt: int = 0
    """How many folders ``prepare`` damaged."""
    check: Callable[[Path], list[str]] = lambda root: []
    """What else is wrong afterwards."""
    needed: int = SAVED
    """The save that must be found whatever happens, until a later one is acknowledged."""
    long: bool = False
    """Whether its points are not for every day: those of the others add up to more than a thousand."""


def save_once(step: int) -> Callable[[Path, World, Files, Acknowledge], None]:
    def act(root: Path, world: World, files: Files, acknowledge: Acknowledge) -> None:
        save(store(root, world, files), world, step, SAVED + 1)
        acknowledge(SAVED + 1)

    return act


def save_three_times(root: Path, world: World, files: Files, acknowledge: Acknowledge) -> None:
    checkpoints = store(root, world, files)
    for number in range(SAVED + 1, SAVED + 4):
        save(checkpoints, world, number, number)
        acknowledge(number)


def find_newest(root: Path, world: World, files: Files, acknowledge: Acknowledge) -> None:
    found = store(root, world, files).latest()
    assert found is not None
    found.close()


def find_then_save(root: Path, world: World, files: Files, acknowledge: Acknowledge) -> None:
    find_newest(root, world, files, acknowledge)
    save_once(3)(root, world, files, acknowledge)


def set_back(root: Path, world: World, files: Files, acknowledge: Acknowledge) -> None:
    store(root, world, files).set_back(1)


def damage_a_newer_one(root: Path) -> None:
    """A third one, whose bytes then changed: it was never safe again."""
    save_dealt(CheckpointStore(root, Solo(), Retention(keep_last=9), disk=quick_disk()), Solo(), 3, random_state(9))
    (root / "step-00000003" / "tokenizer.json").write_bytes(b"changed--------!")


def leave_dead_saves(root: Path) -> None:
    """What earlier deaths leave: an attempt, a half-deleted one, one put aside whose successor is there."""
    shutil.copytree(root / "step-00000002", root / "step-00000003.partial-0a")
    (root / "step-00000003.partial-0a" / "manifest.json").unlink()
    shutil.copytree(root / "step-00000001", root / ".trash-step-00000000-0a")
    (root / ".trash-step-00000000-0a" / "manifest.json").unlink()
    shutil.copytree(root / "step-00000001", root / "step-00000002.aside-0a")


def put_newest_aside(root: Path) -> None:
    """A replacement that died between its two renames."""
    (root / "step-00000002").rename(root / "step-00000002.aside-0a")


def start_empty(root: Path) -> None:
    """The scene's own saves are the first ones."""
    shutil.rmtree(root)


class WatchedTarget(MirrorTarget):
    """Makes a call before and after each of its own, so that a process can die at these too."""

    def __init__(self, root: Path, files: Files) -> None:
        super().__init__(str(root.parent / "mirror"))
        self._here, self._files = root, files

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        # The pieces are read while they are written: reading is a place to die in the middle.
        self._files.free_bytes(self._here)
        super().write(name, pieces)
        self._files.free_bytes(self._here)

    def remove(self, name: str) -> None:
        self._files.free_bytes(self._here)
        super().remove(name)
        self._files.free_bytes(self._here)


def copy_to_mirror(root: Path, world: World, files: Files, acknowledge: Acknowledge) -> None:
    shutil.rmtree(root.parent / "mirror", ignore_errors=True)
    mirror = Mirror(root, WatchedTarget(root, files), RULES, quick_disk(files))
    mirror.catch_up()
    save(store(root), world, 3, SAVED + 1)
    acknowledge(SAVED + 1)
    mirror.catch_up()


def mirror_problems(root: Path) -> list[str]:
    """Every copy is whole, and a new process completes them."""
    place = root.parent / "mirror"
    mirror = Mirror(root, MirrorTarget(str(place)), RULES, quick_disk())
    problems = [f"corrupt: {name} in the mirror" for name in mirror.copies() if verify(place / name, quick_disk())]
    mirror.catch_up()
    newest = [summary.folder.name for summary in list_checkpoints(root, quick_disk())][-2:]
    if sorted(path.name for path in place.iterdir()) != newest or verify(place, quick_disk()):
        problems.append("lost: the mirror was not completed")
    return problems


SCENES = [
    Scene("a save and the deletion of an older checkpoint", save_once(3)),
    Scene("a save of a step that exists", save_once(2)),
    Scene("three saves in a row, each deleting an older one", save_three_times, long=True),
    Scene("a save that cleans up after three that died", save_once(3), leave_dead_saves, long=True),
    Scene("a save after a replacement that died half-way", save_once(3), put_newest_aside, long=True),
    Scene("setting a corrupt checkpoint aside", find_newest, damage_a_newer_one, corrupt=1),
    Scene("setting a corrupt one aside, then saving", find_then_save, damage_a_newer_one, corrupt=1, long=True),
    Scene("going back to an older checkpoint", set_back, needed=1),
    Scene("copying to a mirror and deleting there", copy_to_mirror, check=mirror_problems),
    Scene("a save of two ranks", save_once(3), size=2),
    Scene("a save of three ranks", save_once(3), size=3, long=True),
    Scene("setting a corrupt one aside, by two ranks", find_newest, damage_a_newer_one, size=2, corrupt=1),
]


def prepared(scene: Scene, root: Path) -> Path:
    """``root`` as it is when the scene begins."""
    for step in range(1, SAVED + 1):
        save(store(root), Solo(), step, step)
    scene.prepare(root)
    return root


def problems_afterwards(root: Path, acknowledged: int, corrupt: int = 0) -> list[str]:
    """What went wrong, each beginning with lost, corrupt or litter: as a process finds it that knows nothing else.

    Every visible folder is whole, the newest is the last acknowledged save or a later one, at least as many are there
    as the rules keep, and the next save leaves nothing behind.
    """
    problems = _lost(root, acknowledged) + _half_ones(root, corrupt)
    save(store(root), Solo(), 50, 50)
    with open_checkpoint(root, quick_disk()) as found:
        if number_of(read_whole(found)) != 50:
            problems.append("lost: the next save is not found")
    names = [name for name in os.listdir(root) if ".corrupt" not in name]  # noqa: PTH208
    problems += [f"litter: {name}" for name in names if not re.fullmatch(r"step-\d{8}", name)]
    return problems


def _lost(root: Path, acknowledged: int) -> list[str]:
    try:
        found = store(root).latest()
    except CheckpointError as error:
        return [f"lost: {error}"]
    if found is None:
        return ["lost: nothing is left"] if acknowledged else []
    with found:
        state = read_whole(found)
    number = number_of(state)
    if not same(state, random_state(number)):
        return [f"corrupt: {found.folder.name} is not what was saved"]
    if number < acknowledged:
        return [f"lost: save {number} is the newest, {acknowledged} was acknowledged"]
    return []


def _half_ones(root: Path, corrupt: int) -> list[str]:
    disk: Disk = quick_disk()
    whole, broken = [], []
    for summary in list_checkpoints(root, disk) if root.exists() else []:
        (broken if ".corrupt" in summary.folder.name or verify(summary.folder, disk) else whole).append(summary)
    problems = [f"corrupt: {summary.folder.name}" for summary in broken[corrupt:]]
    if len(whole) < RULES.keep_last:
        problems.append(f"lost: {len(whole)} are left, {RULES.keep_last} must be kept")
    return problems
