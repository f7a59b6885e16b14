from dataclasses import replace

import pytest

from mypt_dist.watch.limits import PHASES, WAITING, Limits
from mypt_dist.watch.report import report
from mypt_dist.watch.verdict import GONE, RankStatus, missing, ordered, suspects, table


def status(rank: int, phase: str, step: int = 7, age_s: float = 60.0, **more: object) -> RankStatus:
    return replace(RankStatus(rank, f"node{rank // 2}", 100 + rank, phase, step, age_s, 0.0), **more)  # type: ignore[arg-type]


def first(*statuses: RankStatus) -> int:
    return ordered(statuses)[0].rank


@pytest.mark.parametrize("phase", sorted(set(PHASES) - WAITING - {"end"}))
def test_the_one_that_works_comes_before_those_that_wait(phase: str) -> None:
    ranks = [status(0, "vote"), status(1, "vote"), status(2, phase, age_s=1.0), status(3, "vote")]
    assert first(*ranks) == 2
    assert [found.rank for found in suspects(ranks)] == [2]


def test_an_older_step_weighs_more_than_a_phase() -> None:
    assert first(status(0, "data_wait", 8), status(1, "vote", 7), status(2, "vote", 8)) == 1


def test_at_the_same_step_the_earlier_phase_comes_first() -> None:
    assert first(status(0, "backward"), status(1, "forward")) == 1
    assert first(status(0, "data_wait"), status(1, "save")) == 1, "a step begins after what the last one left to do"


@pytest.mark.parametrize("state", ["T", "t", GONE])
def test_a_rank_that_is_stopped_or_gone_comes_first_of_all(state: str) -> None:
    ranks = [status(0, "data_wait", 3), status(1, "vote", 9, state=state)]
    assert first(*ranks) == 1
    assert suspects(ranks)[0].rank == 1


def test_in_one_phase_the_rank_outside_a_collective_is_the_odd_one() -> None:
    for phase in ("backward", "vote"):
        ranks = [status(rank, phase, at="seen", collective=rank != 2) for rank in range(4)]
        assert [found.rank for found in suspects(ranks)] == [2]


def test_several_odd_ones_are_all_named_and_none_where_all_are_alike() -> None:
    alike = [status(rank, "backward", age_s=60.0 + rank) for rank in range(4)]
    assert suspects(alike) == []
    assert [s.rank for s in suspects([*alike, status(4, "forward", age_s=9), status(5, "forward", age_s=10)])] == [5, 4]
    assert suspects([]) == []
    assert [s.rank for s in suspects(alike[:1])] == [0], "a rank alone waits for itself"


def test_ranks_that_told_nothing_are_missing() -> None:
    assert missing([status(0, "vote"), status(3, "vote")], 5) == [1, 2, 4]


def test_a_report_says_who_where_since_when_and_lists_the_odd_one_first() -> None:
    hung = status(1, "data_wait", age_s=241.0, hung=True, at="data/shards.py:8 read", state="D")
    text = report(hung, 240.0, [status(0, "vote"), hung, status(3, "vote")], "File x", "")
    assert text.startswith("rank 1 on node0: data_wait, step 7, for 241 s, waiting for a disk, limit 240 s")
    assert "The others wait for rank 1. Nothing is known of ranks 2." in text
    rows = table([status(0, "vote"), hung]).splitlines()
    assert rows[1].split()[:4] == ["1", "node0", "101", "data_wait"]
    assert "data/shards.py:8 read" in rows[1]
    assert "none: the process is stopped" in report(hung, 240.0, [hung], "", "")


@pytest.mark.parametrize("first_step", [True, False])
@pytest.mark.parametrize("phase", PHASES)
def test_a_rank_at_work_is_ended_before_its_peers_give_up_and_one_that_waits_after(
    phase: str, first_step: bool
) -> None:
    limits = Limits(first_s=1800, step_s=300, evaluate_s=900, save_s=1200)
    own, peers = limits.own(phase, first=first_step), limits.peers(phase, first=first_step)
    assert (own > peers) == (phase in WAITING)


def test_time_outs_are_long_for_the_first_step_and_short_after_it() -> None:
    limits = Limits(first_s=1800, step_s=300, evaluate_s=900, save_s=1200)
    assert limits.peers("backward", first=True) == 1800
    assert limits.peers("backward", first=False) == 300
    assert [limits.peers(phase, first=False) for phase in ("evaluate", "save", "end")] == [900, 1200, 1200]
