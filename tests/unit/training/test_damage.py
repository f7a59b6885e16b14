"""Damage that one rank meets is known to all, in one way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from mypt_dist.data.loader import Step
from mypt_dist.data.order import Order, SourceShape
from mypt_dist.errors import DataError, LostPeerError, MyptError
from mypt_dist.training.damage import DamageBook, shared_failure, together
from mypt_dist.world import JSON

SAMPLES = Order([SourceShape("main", 100)], context=4, seed=0).samples(0, 2)


class Threads:
    """Ranks are threads that wait for each other in every collective."""

    def __init__(self, rank: int, size: int, barrier: Barrier, board: dict[int, JSON]) -> None:
        self.rank, self.size, self._barrier, self._board = rank, size, barrier, board

    def all_gather(self, value: JSON) -> list[JSON]:
        self._board[self.rank] = value
        self._barrier.wait(30)
        told = [self._board[rank] for rank in range(self.size)]
        self._barrier.wait(30)
        return told

    def sum(self, *values: float) -> list[float]:
        told: list[Any] = self.all_gather([float(value) for value in values])
        return [sum(column) for column in zip(*told, strict=True)]


def on_ranks(size: int, action: Callable[[Threads], object]) -> list[object]:
    """What ``action`` returned or raised on every rank."""
    barrier, board = Barrier(size), dict[int, JSON]()

    def run(rank: int) -> object:
        try:
            return action(Threads(rank, size, barrier, board))
        except MyptError as error:
            return type(error), str(error)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def step(skipped: int, *damaged: str) -> Step:
    return Step([], SAMPLES, lambda: 0, skipped=skipped, damaged=damaged)


def book(world: Any, **settings: Any) -> DamageBook:
    return DamageBook(**{"world": world, "total": 100, "limit": 0.05, "skips": True, **settings})


def test_every_rank_raises_what_one_met() -> None:
    def fail(world: Threads) -> None:
        raise shared_failure(world, DataError("block 3") if world.rank == 1 else None, "step 7")

    assert on_ranks(3, fail) == [(DataError, "step 7 on rank 1: block 3")] * 3


def test_the_first_rank_speaks_where_several_failed() -> None:
    def fail(world: Threads) -> None:
        raise shared_failure(world, LostPeerError(f"by {world.rank}"), "step 7")

    assert on_ranks(2, fail) == [(LostPeerError, "step 7 on rank 0: by 0")] * 2


def test_what_one_rank_cannot_do_together_nobody_does() -> None:
    def read(world: Threads) -> int:
        def action() -> int:
            if world.rank == 2:
                raise DataError("gone")
            return world.rank

        return together(world, action, "evaluation")

    assert on_ranks(3, read) == [(DataError, "evaluation on rank 2: gone")] * 3
    assert on_ranks(3, lambda world: together(world, lambda: world.rank, "evaluation")) == [0, 1, 2]


def test_all_ranks_write_the_same_book() -> None:
    def run(world: Threads) -> object:
        told: list[tuple[int, int, list[str]]] = []
        mine = book(world, tell=lambda *news: told.append(news))
        mine.after_loading(1, step(0), 8)
        mine.after_loading(2, step(world.rank, *["b"] * world.rank), 8)
        mine.after_loading(3, step(1, "a" if world.rank else "b"), 8)
        return told, mine.to_json(), mine.metrics()

    saved = {"blocks": ["a", "b"], "skipped_windows": 3}
    told = [(2, 1, ["b"]), (3, 2, ["a"])]
    assert on_ranks(2, run) == [(told, saved, {"data/skipped_windows": 3})] * 2


def test_too_many_damaged_blocks_and_an_empty_step_end_all_ranks() -> None:
    def much(world: Threads) -> None:
        book(world, limit=0.01).after_loading(5, step(1, f"block {world.rank}"), 8)

    def empty(world: Threads) -> None:
        book(world).after_loading(5, step(4, "block"), 0)

    expected = "step 5: 2 of 100 blocks are damaged, more than data.max_damaged (0.01) allows: block 0, block 1"
    assert on_ranks(2, much) == [(DataError, expected)] * 2
    assert on_ranks(2, empty) == [(DataError, "step 5: every window is on damaged data: block")] * 2


def test_a_resume_goes_on_with_what_was_saved() -> None:
    mine = book(None)
    assert mine.resume({"blocks": ["a", "b"], "skipped_windows": 3}) == ["a", "b"]
    assert mine.metrics() == {"data/skipped_windows": 3}


@pytest.mark.parametrize("saved", [{}, {"blocks": 7, "skipped_windows": 1}, {"blocks": [], "skipped_windows": "x"}])
def test_what_no_run_saved_is_as_nothing(saved: dict[str, Any]) -> None:
    assert book(None).resume(saved) == []


def test_a_run_that_does_not_skip_asks_nobody() -> None:
    mine = book(None, skips=False)
    mine.after_loading(1, step(3, "a"), 0)
    assert mine.resume({"blocks": ["a"], "skipped_windows": 1}) == []
    assert mine.metrics() == {}
