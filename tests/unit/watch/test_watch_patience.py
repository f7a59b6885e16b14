import timeit

from mypt_dist.watch.board import SIZE, Board, Position, shared_memory
from mypt_dist.watch.patience import FROZEN_S, Patience


def position(changes: int = 1, since: float = 0.0, limit_s: float = 10.0) -> Position:
    return Position(changes, 3, since, limit_s, public=True, phase="forward")


def test_patience_ends_after_the_limit_and_not_before() -> None:
    patience = Patience(now=0.0)
    assert [patience.exhausted(position(), now) for now in (1.0, 9.0, 10.0)] == [False] * 3
    assert Patience(0.0).exhausted(position(), 99.0) is False, "never at first sight"
    patience = Patience(0.0)
    looks = [patience.exhausted(position(), float(now)) for now in range(13)]
    assert looks.index(True) == 11


def test_every_change_starts_anew() -> None:
    patience = Patience(0.0)
    for now in range(100):
        assert not patience.exhausted(position(changes=now // 5, since=5.0 * (now // 5)), float(now))


def test_time_in_which_the_guard_itself_stood_still_is_forgiven_once() -> None:
    patience = Patience(0.0)
    assert not patience.exhausted(position(), 1.0)
    assert not patience.exhausted(position(), 1001.0), "a container that was paused"
    assert patience.age(position(), 1001.0) == 1.0
    looks = [patience.exhausted(position(), 1001.0 + now) for now in range(1, 12)]
    assert looks.index(True) == 9
    assert FROZEN_S > 1.0


def test_what_the_rank_marks_is_what_its_guard_reads() -> None:
    descriptor = shared_memory("test", SIZE)
    rank, guard = Board(descriptor), Board(descriptor)
    assert guard.read().limit_s == 0
    rank.mark("data_wait", 12, 240.0, public=True)
    seen = guard.read()
    assert (seen.phase, seen.step, seen.limit_s, seen.public) == ("data_wait", 12, 240.0, True)
    rank.mark("a phase with a very long name", 13, 1.0)
    assert guard.read().phase == "a phase with a very long"
    assert guard.read().changes == seen.changes + 1


def test_a_mark_costs_microseconds() -> None:
    board = Board(shared_memory("test", SIZE))
    seconds = min(timeit.repeat(lambda: board.mark("forward", 3, 300.0, public=True), number=1000, repeat=20)) / 1000
    print(f"\nwatch: a mark costs {seconds * 1e6:.2f} microseconds")
    assert seconds < 1e-4, "some 0.4 microseconds on an idle machine"
