"""What a run tells its watchdog and its collectives."""

import os
from pathlib import Path

import pytest

from mypt_dist.errors import LostPeerError
from mypt_dist.run.watching import RunWatch
from mypt_dist.watch.config import WatchConfig
from mypt_dist.watch.statuses import FOLDER, publish
from mypt_dist.watch.verdict import RankStatus

CONFIG = WatchConfig(first_step_s=100, step_s=10, evaluate_s=20, save_s=30)


def watch_of(folder: Path, **settings: object) -> RunWatch:
    config = CONFIG.model_copy(update=settings)
    return RunWatch(config, folder, {"RANK": "0", "WORLD_SIZE": "2"})


def test_ranks_wait_long_for_the_first_step_short_after_it_and_longer_where_they_save(tmp_path: Path) -> None:
    told: list[float] = []
    watch = watch_of(tmp_path, watchdog=False)
    watch.let_wait = told.append
    with watch, watch.training(0):
        for phase in ("vote", "forward", "loop"):
            watch.enter(phase)
        assert told == [], "the engine was made with it"
        watch.stepped(1)
        assert told == [10]
        for phase in ("data_wait", "evaluate", "loop", "save", "loop", "a phase of tomorrow"):
            watch.enter(phase)
        watch.stepped(2)
    assert told == [10, 20, 10, 30, 10, 30]


def test_who_is_missing_stands_in_the_error(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    with pytest.raises(LostPeerError, match=r"reset; rank 1 on elsewhere: data_wait, step 3, for 8 s") as caught:
        lose(watch, tmp_path, rank=1)
    assert not caught.value.local


def test_if_rank_0_is_missing_another_one_must_speak(tmp_path: Path) -> None:
    watch = RunWatch(CONFIG, tmp_path, {"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(LostPeerError) as caught:
        lose(watch, tmp_path, rank=0)
    assert caught.value.local


def lose(watch: RunWatch, folder: Path, rank: int) -> None:
    with watch, watch.training(2):
        publish(folder / FOLDER, RankStatus(rank, "elsewhere", os.getpid(), "data_wait", 3, 8.0, 0.0))
        raise LostPeerError("reset")


def test_without_a_watchdog_nobody_is_named(tmp_path: Path) -> None:
    with pytest.raises(LostPeerError, match=r"^reset$"):
        lose(watch_of(tmp_path, watchdog=False), tmp_path, rank=1)


def test_of_many_ranks_the_odd_one_is_named(tmp_path: Path) -> None:
    watch = RunWatch(CONFIG, tmp_path, {"RANK": "0", "WORLD_SIZE": "4"})
    for rank in (1, 2, 3):
        phase = "data_wait" if rank == 2 else "vote"
        publish(tmp_path / FOLDER, RankStatus(rank, "elsewhere", os.getpid(), phase, 3, 8.0, 0.0))
    named = pytest.raises(LostPeerError, match=r"^reset; rank 2 on elsewhere: data_wait, step 3, for 8 s$")
    with named, watch, watch.training(2):
        raise LostPeerError("reset")
