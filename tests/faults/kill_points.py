"""Kills a process before, in the middle of and after every file-system call of every scene, and reports as JSON.

``python kill_points.py [--without SAFEGUARD] TITLE …``; without a safeguard it ends at the first problem. A program
of its own, without torch, because it forks: a process for every rank that is to die, and a fresh one that looks at
what is left.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from checkpoint_scenes import SCENES, Scene, prepared, problems_afterwards
from missing_safeguards import REMOVALS
from pipe_world import fork_ranks

from mypt_dist.checkpoint import Files
from mypt_dist.world import World

SHARED_MEMORY = Path("/dev/shm")
NEVER = -1
CALLS = frozenset(name for name in vars(Files) if not name.startswith("_"))


class WatchedFiles(Files):
    """The real calls, each of which goes through ``_call``. Notes their names."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        return partial(self._call, name, method) if name in CALLS else method

    def _call(self, name: str, method: Any, *args: Any) -> Any:
        raise NotImplementedError


class KillingFiles(WatchedFiles):
    """Ends this process, as kill -9 does, at call number ``at``."""

    def __init__(self, at: int = NEVER, when: str = "before") -> None:
        super().__init__()
        self.at, self.when = at, when

    def _call(self, name: str, method: Any, *args: Any) -> Any:
        number = len(self.calls)
        self.calls.append(name)
        if number != self.at:
            return method(*args)
        # After a call that finds nothing, too.
        with suppress(OSError):
            if self.when == "half":
                descriptor, data = args
                method(descriptor, data[: data.nbytes // 2])
            elif self.when == "after":
                method(*args)
        os.kill(os.getpid(), signal.SIGKILL)
        return None


class Notes:
    """What children tell through a pipe, a byte or a line at a time, until they die."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def tell(self, text: str) -> None:
        os.write(self._write, f"{text}\n".encode())

    def collect(self) -> list[str]:
        os.close(self._write)
        with os.fdopen(self._read) as lines:
            return lines.read().splitlines()


def calls_of(scene: Scene, template: Path, folder: Path) -> list[list[str]]:
    """Which calls each rank makes when nothing goes wrong."""
    root = shutil.copytree(template, folder / "root") if template.exists() else folder / "root"
    notes = Notes()

    def act(world: World) -> None:
        files = KillingFiles()
        scene.act(root, world, files, lambda number: None)
        notes.tell(json.dumps([world.rank, files.calls]))

    ended = fork_ranks(scene.size, act)
    told = dict(json.loads(line) for line in notes.collect())
    shutil.rmtree(root)
    assert not any(ended), f"{scene.title}: without any fault {ended}"
    return [told[rank] for rank in range(scene.size)]


def points_of(calls: list[list[str]]) -> Iterator[tuple[int, int, str]]:
    """Who dies at which call, and when in it."""
    for rank, names in enumerate(calls):
        for at, name in enumerate(names):
            for when in ("before", "half", "after") if name == "write" else ("before", "after"):
                yield rank, at, when


def strike(scene: Scene, root: Path, point: tuple[int, int, str]) -> tuple[list[int], int]:
    """Let one rank die at a point. How the ranks ended, and the last save that was acknowledged on all."""
    victim, at, when = point
    notes = Notes()

    def act(world: World) -> None:
        files = KillingFiles(at if world.rank == victim else NEVER, when)
        scene.act(root, world, files, lambda number: notes.tell(str(number)))

    ended = fork_ranks(scene.size, act)
    return ended, max([scene.needed, *map(int, notes.collect())])


def look(scene: Scene, root: Path, acknowledged: int) -> list[str]:
    """What a fresh process finds wrong."""
    notes = Notes()

    def act(world: World) -> None:
        for problem in [*scene.check(root), *problems_afterwards(root, acknowledged, scene.corrupt)]:
            notes.tell(problem)
        notes.tell("done")

    ended = fork_ranks(1, act)
    told = notes.collect()
    return told[:-1] if told[-1:] == ["done"] else [*told, f"lost: looking ended with {ended}"]


def sweep(scene: Scene, folder: Path, *, to_the_end: bool) -> dict[str, Any]:
    """Every point of a scene; how many there were and what went wrong where."""
    template = prepared(scene, folder / "template")
    calls = calls_of(scene, template, folder)
    found: list[str] = []
    points = 0
    for rank, at, when in points_of(calls):
        root = shutil.copytree(template, folder / "root")
        ended, acknowledged = strike(scene, root, (rank, at, when))
        place = f"{when} call {at} ({calls[rank][at]}) of rank {rank}"
        if ended[rank] != signal.SIGKILL:
            found.append(f"missed: {place}: {ended}")
        found += [f"{problem} [{place}]" for problem in look(scene, root, acknowledged)]
        points += 1
        shutil.rmtree(root)
        if found and not to_the_end:
            break
    shutil.rmtree(template)
    return {"title": scene.title, "points": points, "problems": found}


def main() -> None:
    """Sweep the scenes asked for and print a line of JSON for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", choices=sorted(REMOVALS))
    parser.add_argument("titles", nargs="*")
    arguments = parser.parse_args()
    if arguments.without:
        REMOVALS[arguments.without]()
    logging.disable()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None) as folder:
        for scene in SCENES:
            if scene.title in arguments.titles:
                print(json.dumps(sweep(scene, Path(folder), to_the_end=not arguments.without)), flush=True)


if __name__ == "__main__":
    main()
