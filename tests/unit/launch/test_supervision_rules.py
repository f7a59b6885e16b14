"""What is worth a restart, how often, how soon, on how many GPUs: pure functions."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mypt_dist import errors
from mypt_dist.launch.supervision.gpus import visible_gpus
from mypt_dist.launch.supervision.patience import Failures, Patience
from mypt_dist.launch.supervision.verdict import MEANING, Ending, judge
from mypt_dist.run.shares import largest_share, micro_batch_of

SILENT = None


@pytest.mark.parametrize(
    ("launcher", "ranks", "code"),
    [
        (1, {0: 7, 1: SILENT}, 7),
        (1, {0: SILENT, 1: SILENT}, 7),
        (1, {0: 7, 1: 7}, 7),
        (1, {0: 9, 1: 7}, 9),
        (1, {0: 1, 1: SILENT}, 7),
        (-9, {0: SILENT, 1: SILENT}, 7),
        (-9, {}, 137),
        (-9, {0: -9}, 137),
        (-6, {0: -6}, 134),
        (-11, {0: -11}, 139),
        (-7, {0: -7}, 135),
        (9, {0: 9}, 9),
        (7, {0: 7}, 7),
    ],
)
def test_lost_peers_hangs_and_deaths_without_a_word_are_worth_it(
    launcher: int, ranks: dict[int, int | None], code: int
) -> None:
    verdict = judge(Ending(launcher, ranks))
    assert (verdict.restart, verdict.code) == (True, code)
    assert not judge(Ending(launcher, ranks), stopped=15).restart, "nothing is restarted after a stop"


@pytest.mark.parametrize("own", [1, 2, 3, 4, 5, 6, 8, 42, 130, 143])
def test_what_a_rank_decided_it_would_decide_again(own: int) -> None:
    verdict = judge(Ending(1, {0: 7, 1: own, 2: 7}))
    assert (verdict.restart, verdict.code) == (False, own)
    assert "rank 1: " in verdict.why


def test_a_decision_is_not_outweighed_by_deaths_around_it() -> None:
    assert not judge(Ending(1, {0: SILENT, 1: 2})).restart
    assert judge(Ending(1, {0: 143, 1: 5})).code == 5, "a signal is the least telling reason"


def test_done_is_done_whatever_the_launcher_says() -> None:
    assert judge(Ending(0, {0: 0, 1: 0})) == judge(Ending(1, {0: 0, 1: 0}), stopped=15)
    assert judge(Ending(1, {0: 0, 1: 0})).code == 0
    # One that is done and one that was lost on the way out is not done.
    assert judge(Ending(1, {0: 0, 1: SILENT})).restart


def test_who_was_killed_is_told() -> None:
    assert judge(Ending(1, {0: 7, 1: SILENT})).why.startswith("rank 1 died without a word")
    assert judge(Ending(-9, {0: SILENT, 1: 7})).why == "the launcher was killed by SIGKILL, its ranks with it"
    assert judge(Ending(-11, {0: -11})).why == "rank 0 was killed by SIGSEGV"
    assert judge(Ending(1, {0: 9, 1: SILENT})).why == "rank 0: no progress, ended by its watchdog (exit code 9)"


def test_a_launcher_that_starts_nothing_is_not_started_again() -> None:
    verdict = judge(Ending(1, {}))
    assert (verdict.restart, verdict.code) == (False, 1)
    assert judge(Ending(-15, {}), stopped=15).code == 143


def test_after_a_stop_the_ranks_say_how_it_went() -> None:
    assert judge(Ending(1, {0: 143, 1: 143}), stopped=15).code == 143
    assert judge(Ending(1, {0: 5, 1: 5}), stopped=15).code == 5
    assert judge(Ending(1, {0: 7, 1: SILENT}), stopped=15).code == 7, "143 would say that all was saved"
    assert judge(Ending(1, {0: SILENT}), stopped=10).code == 138


def test_every_exit_code_of_ours_has_a_meaning() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MyptError)]
    assert {kind.exit_code for kind in kinds} | {errors.HUNG} <= set(MEANING)


def test_waits_double_up_to_a_bound() -> None:
    patience = Patience(first_wait_s=2, longest_wait_s=15)
    assert [patience.wait_s(restart) for restart in (1, 2, 3, 4, 5, 10_000)] == [2, 4, 8, 15, 15, 15]


def test_only_a_new_checkpoint_counts_as_getting_further() -> None:
    failures = Failures(step=10).and_another(10).and_another(10)
    assert failures == Failures(10, 2)
    assert failures.and_another(11) == Failures(11, 1)
    # The newest was found damaged: reaching its step again is not new.
    assert failures.and_another(5).and_another(10) == Failures(10, 4)


@pytest.mark.parametrize(
    ("visible", "usable"),
    [(None, 2), ("0,1", 2), ("1", 1), ("0,7", 1), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-a,GPU-b,GPU-c", 2)],
)
def test_gpus_are_counted_as_cuda_would(visible: str | None, usable: int, tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0").mkdir(parents=True)
    assert visible_gpus({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, tmp_path) == usable


def test_without_a_driver_nobody_knows_how_many_there_are(tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path) is None
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert visible_gpus({}, tmp_path) == 3


def test_a_container_that_lists_its_hosts_gpus_has_those_whose_devices_it_was_given(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia5").touch()
    assert visible_gpus({}, tmp_path) == 1


@pytest.mark.parametrize(
    ("batch", "micro", "most", "least", "best"),
    [
        (8, None, 3, 1, 2),
        (8, None, 7, 3, 4),
        (8, None, 3, 3, None),
        (12, 4, 6, 1, 3),
        (12, 4, 2, 2, None),
        (7, 1, 6, 1, 1),
    ],
)
def test_the_largest_number_of_ranks_that_can_share_a_batch(
    batch: int, micro: int | None, most: int, least: int, best: int | None
) -> None:
    train = SimpleNamespace(batch_size=batch, micro_batch=micro)
    assert largest_share(train, most, least) == best  # type: ignore[arg-type]
    if best is not None:
        assert micro_batch_of(train, best) == (micro or batch // best)  # type: ignore[arg-type]
