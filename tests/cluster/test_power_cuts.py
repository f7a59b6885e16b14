"""The power of a real disk is cut: an ext4 image is copied in the middle of a save, mounted, and read."""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkpoint_doubles import quick_disk, random_state, read_whole, same
from counted import count

from mypt_dist.checkpoint import CheckpointStore
from mypt_dist.errors import CheckpointError
from mypt_dist.world import Solo

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="needs root and mkfs.ext4"),
    pytest.mark.timeout(1500),
]

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, [ROOT, ROOT / "tests/unit/checkpoint"]))
CUTS = 100
TWIN_CUTS = 10


@contextmanager
def mounted(image: Path, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", ",".join(["loop", *options]), image, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


class Writer:
    """A process that saves without end, and what it has acknowledged."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).parent / "saving_loop.py"), str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": PATHS}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        self.acknowledged = 0

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + 120
        while self.acknowledged < number:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            self.read(0.1)

    def read(self, seconds: float) -> None:
        """All that was acknowledged so far."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while select.select([descriptor], [], [], seconds)[0]:
            lines = os.read(descriptor, 1 << 16).split()
            if not lines:
                return
            self.acknowledged, seconds = int(lines[-1]), 0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        while f"{self.process.pid} (" not in (stat := self._stat()) or stat.rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        yield
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _stat(self) -> str:
        return Path(f"/proc/{self.process.pid}/stat").read_text()


def newest(folder: Path) -> int:
    """Number of the newest valid checkpoint, whose content is checked; 0 if there is none."""
    try:
        found = CheckpointStore(folder, Solo(), disk=quick_disk()).latest()
    except CheckpointError:
        return 0
    if found is None:
        return 0
    with found:
        assert same(read_whole(found), random_state(found.manifest.step))
        return found.manifest.step


def power_cuts(folder: Path, cuts: int, *options: str) -> list[tuple[int, int]]:
    """For every cut the last save that was acknowledged, and the one that was found."""
    image, copy, dice = folder / "disk", folder / "copy", random.Random(0)
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    outcomes = []
    with mounted(image, folder / "before") as disk:
        writer = Writer(disk / "checkpoints", *options)
        try:
            writer.wait_for(2)
            for _ in range(cuts):
                time.sleep(dice.random() * 0.2)
                with writer.stopped():
                    writer.read(0)
                    # What the system has not given to the disk yet is not in the image.
                    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
                with mounted(copy, folder / "after") as found:
                    outcomes.append((writer.acknowledged, newest(found / "checkpoints")))
        finally:
            writer.end()
    return outcomes


def test_no_acknowledged_checkpoint_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    outcomes = power_cuts(tmp_path, CUTS)
    lost = [outcome for outcome in outcomes if outcome[1] < outcome[0]]
    saves = outcomes[-1][0]
    count(
        "power cut of a real ext4 disk while checkpoints are saved",
        "the last acknowledged checkpoint or a newer one is loaded, whole",
        cuts=len(outcomes),
        saves=saves,
        lost=len(lost),
    )
    assert lost == []
    assert len({found for _, found in outcomes}) > CUTS // 4, "the cuts fell into different saves"


def test_without_waiting_for_the_disk_acknowledged_checkpoints_are_lost(tmp_path: Path) -> None:
    assert any(found < acknowledged for acknowledged, found in power_cuts(tmp_path, TWIN_CUTS, "--hastily"))
