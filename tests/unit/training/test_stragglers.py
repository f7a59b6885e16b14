import logging

import pytest

from mypt_dist.training.stragglers import RankTimes, Stragglers, slow_rank, table, times_of
from mypt_dist.world import JSON


def ranks(*busy: float, step: float = 100.0) -> list[RankTimes]:
    return [RankTimes(step, value) for value in busy]


@pytest.mark.parametrize(
    ("busy", "slow"),
    [
        ((10.0, 40.0), 1),
        ((40.0, 10.0), 0),
        ((10.0, 14.0), None),
        ((10.0, 11.0, 9.0, 60.0), 3),
        ((60.0, 60.0, 60.0, 60.0), None),
        ((1.0, 4.0), None),
        ((10.0,), None),
        # Half of the ranks are slow: that is how fast this machine is.
        ((10.0, 60.0, 60.0, 61.0), None),
    ],
)
def test_a_rank_is_slow_against_the_median_of_the_others_if_the_step_feels_it(
    busy: tuple[float, ...], slow: int | None
) -> None:
    assert slow_rank(ranks(*busy), factor=1.5) == slow


def test_waiting_for_others_is_not_being_busy() -> None:
    times = times_of({"time/step_ms": 100.0, "time/vote_ms": 30.0, "time/backward_ms": 20.0, "time/data_wait_ms": 5.0})
    assert times == RankTimes(step=100.0, busy=50.0, data_wait=5.0, vote=30.0, backward=20.0)


class TwoRanks:
    """The other one is busy for as long as it was told."""

    rank, size = 0, 2

    def __init__(self, *busy: float) -> None:
        self.busy = list(busy)

    def all_gather(self, value: JSON) -> list[JSON]:
        other = self.busy.pop(0)
        return [value, [100.0, other, other, 0.0, 0.0, 0.0, 0.0]]


SPEED = {"time/step_ms": 100.0, "time/vote_ms": 90.0}


def test_the_slow_rank_is_named_in_metrics_always_and_in_the_log_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mypt_dist"), "propagate", True)
    now = [0.0]
    stragglers = Stragglers(TwoRanks(10.0, 95.0, 95.0, 95.0, 95.0), 1.5, clock=lambda: now[0])
    slow = []
    for time in (0.0, 1.0, 2.0, 3.0, 70.0):
        now[0] = time
        slow.append(stragglers.compare(SPEED)["time/slowest_rank"])
    assert slow[1:] == [1.0] * 4
    # Two handlers may have heard of one.
    assert len({id(record) for record in caplog.records}) == 2, "not at first sight, then once a minute"
    assert "rank 1 is slow" in caplog.text


def test_the_metrics_span_all_ranks() -> None:
    assert Stragglers(TwoRanks(40.0), 1.5).compare(SPEED) == {
        "time/step_ms_max": 100.0,
        "time/step_ms_min": 100.0,
        "time/busy_ms_max": 40.0,
        "time/busy_ms_min": 10.0,
        "time/slowest_rank": 1.0,
    }


def test_a_rank_alone_is_compared_with_nobody() -> None:
    from mypt_dist.world import Solo

    assert Stragglers(Solo(), 1.5).compare(SPEED) == {}


def test_the_table_begins_with_the_busiest() -> None:
    header, first, second = table([RankTimes(100.0, 10.0), RankTimes(100.0, 90.0, data_wait=80.0)]).splitlines()
    assert header.split()[:4] == ["rank", "step", "busy", "data_wait"]
    assert first.split()[:4] == ["1", "100.0", "90.0", "80.0"]
    assert second.split()[0] == "0"
