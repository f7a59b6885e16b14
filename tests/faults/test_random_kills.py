"""kill -9 of the whole program at any moment: the run goes on from its last checkpoint and ends as if undisturbed."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count
from engines import ENGINES
from lives import ColdLife, Final, ForkServer, Life, eventually, final, lost_work, steps_done, write_run

pytestmark = pytest.mark.multiproc

SAVE_EVERY = 3
STEPS = 36

KILLS = {
    ("1", False): (150, 20),
    ("DDP x2", False): (100, 0),
    ("DDP x2", True): (100, 10),
    ("FSDP2 x2", True): (100, 0),
}
"""By engine, and by whether it saves in the background: with `make test-soak`, and in `make test`."""
COLD = (12, 1)
"""The same for lives that begin with an interpreter, of one process and of two ranks under torchrun."""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@dataclass
class Ordeal:
    """Runs that are killed again and again until each has finished after all."""

    start: Callable[[Path], Life]
    moments: random.Random
    span: float
    """Seconds from a start to its third save, about."""
    killed: int = 0
    starts: int = 0
    lost: list[int] = field(default_factory=list)

    def run(self, file: Path, kills: int) -> Path:
        """Kill the run in ``file`` so often, or until it ends before it can be killed; its folder when it is done."""
        folder = file.with_suffix("")
        while True:
            life = self.start(file)
            self.starts += 1
            if self.killed < kills:
                self._wait_for_a_moment(life, folder)
                codes = life.kill()
            else:
                codes = life.wait()
            if set(codes) == {0}:
                break
            assert -signal.SIGKILL in codes, life.said()
            self.killed += 1
        self.lost += lost_work(folder)
        return folder

    def _wait_for_a_moment(self, life: Life, folder: Path) -> None:
        """Half of all moments are any time from the start on, half are soon after some step, where the saves are."""
        first = steps_done(folder) // SAVE_EVERY * SAVE_EVERY
        if self.moments.random() < 0.5:
            deadline, until, more = time.monotonic() + self.moments.uniform(0, self.span), first + 3 * SAVE_EVERY, 0.0
        else:
            deadline, until = float("inf"), first + self.moments.randint(1, 2 * SAVE_EVERY)
            more = self.moments.uniform(0, 0.03)
        while time.monotonic() < deadline and steps_done(folder) < until and not life.ended():
            time.sleep(0.01)
        time.sleep(more)


def undisturbed(start: Callable[[Path], Life], file: Path) -> tuple[Final, float]:
    """The end of a run that nothing happened to, and seconds to its third save."""
    begun = time.monotonic()
    life = start(file)
    eventually("three saves", lambda: steps_done(file.with_suffix("")) >= 3 * SAVE_EVERY or life.ended())
    span = time.monotonic() - begun
    assert set(life.wait()) == {0}, life.said()
    return final(file.with_suffix("")), span


def torment(
    start: Callable[[Path], Life], mapping: dict[str, Any], path: Path, kills: int, start_whole: Callable[[Path], Life]
) -> Ordeal:
    """Kill runs ``kills`` times in all; each must end as the undisturbed one did, which is started in its own way."""
    train = {"steps": STEPS, "save_every": SAVE_EVERY, "eval_every": 12}
    whole, span = undisturbed(start_whole, write_run(mapping, path, "whole", **train))
    assert whole.losses[-1][0] == STEPS
    ordeal = Ordeal(start, random.Random(str(path.name)), span)
    number = 0
    while ordeal.killed < kills:
        folder = ordeal.run(write_run(mapping, path, f"killed-{number}", **train), kills)
        assert final(folder) == whole
        number += 1
    # A background save counts once it is written, and these steps take milliseconds: many more are done by then.
    assert mapping["checkpoints"]["background"] or max(ordeal.lost, default=0) <= SAVE_EVERY
    return ordeal


def tell(how: str, ordeals: list[Ordeal]) -> None:
    count(
        f"kill -9 of the whole program at any moment ({how})",
        "resumed: weights, moments, order and losses bit-identical to the undisturbed run; at most one save interval "
        "done again, and with background saves what was trained while one was written",
        kills=sum(ordeal.killed for ordeal in ordeals),
        starts=sum(ordeal.starts for ordeal in ordeals),
        steps_done_again_at_most=max(max(ordeal.lost, default=0) for ordeal in ordeals),
        save_interval=SAVE_EVERY,
        differing=0,
    )


@pytest.mark.parametrize(("engine", "background"), [case for case, numbers in KILLS.items() if numbers[not SOAK]])
@pytest.mark.timeout(3600 if SOAK else 600)
def test_a_run_that_is_killed_at_any_moment_ends_like_an_undisturbed_one(
    engine: str, background: bool, run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    ranks, environment = ENGINES[engine]
    run_mapping["checkpoints"] = {"keep_last": 2, "background": background}

    def start(file: Path) -> Life:
        return server.start(file, ranks=ranks, environment=environment)

    ordeal = torment(start, run_mapping, tmp_path / "runs", KILLS[engine, background][not SOAK], start)
    tell(f"{'1 process' if ranks == 1 else engine}{', saving in the background' if background else ''}", [ordeal])


@pytest.mark.timeout(3600 if SOAK else 600)
def test_cold_starts_survive_their_deaths_too(run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer) -> None:
    ordeals = []
    run_mapping["checkpoints"] = {"keep_last": 2, "background": False}
    for ranks in (1, 2):
        ordeals.append(
            torment(
                partial(ColdLife.begin, ranks=ranks),
                run_mapping,
                tmp_path / f"x{ranks}",
                COLD[not SOAK],
                partial(server.start, ranks=ranks),
            )
        )
    tell("cold starts, 1 process and 2 ranks with their launcher", ordeals)


def test_a_resume_that_forgets_its_random_numbers_is_found_out(
    run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    whole, broken = (write_run(run_mapping, tmp_path, name, steps=6) for name in ("whole", "broken"))
    assert server.start(whole).wait() == [0]
    assert server.start(broken, "train.stop_after=3").wait() == [0]
    assert server.start(broken, inject={0: "without_random_states"}).wait() == [0]
    one, other = final(whole.with_suffix("")), final(broken.with_suffix(""))
    assert one.order_hash == other.order_hash
    assert one.tensors != other.tensors
    assert one.losses != other.losses


def test_work_that_is_lost_is_counted(run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer) -> None:
    file = write_run(run_mapping, tmp_path, "lazy", steps=6, save_every=6)
    life = server.start(file, inject={0: "at_step:5:signal:SIGKILL"})
    assert life.wait() == [-signal.SIGKILL]
    assert server.start(file, "train.stop_after=2").wait() == [0]
    assert server.start(file).wait() == [0]
    assert lost_work(file.with_suffix("")) == [5, 0]
