"""When the sender sends, waits, tries again and ends; time passes only where the loop sleeps."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tracking_fakes import Clock, FakeRemote, shipper_of

from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender.loop import MAX_BACKOFF_S, Loop
from mypt_dist.tracking.mlflow_sender.ship import Shipper

START = 1_700_000_000.0


class FakeTrainer:
    """A trainer with a script: what happens at which second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.script: dict[float, Callable[[], None]] = {}
        self.done = False
        self.successor = False

    def is_done(self) -> bool:
        return self.done

    def has_successor(self) -> bool:
        return self.successor

    def wait(self, seconds: float) -> None:
        assert seconds > 0, "a busy loop"
        self.clock.tick(seconds)
        for second in sorted(self.script):
            if self.clock.now >= START + second:
                self.script.pop(second)()

    def at(self, second: float, what: Callable[[], None]) -> None:
        self.script[second] = what

    def dies(self) -> None:
        self.done = True


class Stage:
    """One sender with everything around it."""

    def __init__(self, run_dir: Path, drain_s: float = 20.0) -> None:
        self.clock = Clock(START)
        self.remote = FakeRemote()
        self.trainer = FakeTrainer(self.clock)
        self.journal = Journal(run_dir, clock=self.clock)
        self.journal.event("start", params={}, tags={}, dataset=[], resumed_from_step=None)
        self.shipper: Shipper = shipper_of(run_dir, self.remote)
        self.loop = Loop(self.shipper, self.trainer, drain_s, self.clock)

    def logs(self, step: int) -> Callable[[], None]:
        return lambda: self.journal.log(step, {"train/loss": 1.0 / step})

    def finishes(self) -> None:
        self.journal.event("finish", status="finished", reason=None)

    def server(self, down: bool) -> Callable[[], None]:
        return lambda: setattr(self.remote, "down", down)

    @property
    def elapsed(self) -> float:
        return self.clock.now - START


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_it_ends_when_the_runs_end_is_sent(stage: Stage) -> None:
    stage.trainer.at(3, stage.logs(1))
    stage.trainer.at(100, stage.logs(2))
    stage.trainer.at(101, stage.finishes)
    assert stage.loop.run() is True
    assert stage.remote.only.history("train/loss") == [(1, 1.0), (2, 0.5)]
    assert stage.remote.only.status == "FINISHED"
    assert stage.elapsed == 101


def test_an_idle_run_asks_nothing_of_the_server(stage: Stage) -> None:
    calls: list[int] = []
    stage.trainer.at(2, lambda: calls.append(len(stage.remote.calls)))
    stage.trainer.at(5000, lambda: calls.append(len(stage.remote.calls)))
    stage.trainer.at(5001, stage.finishes)
    stage.loop.run()
    assert calls[0] == calls[1]


def test_it_never_gives_up_while_the_run_goes_on(stage: Stage) -> None:
    stage.remote.down = True
    stage.trainer.at(10_000, stage.server(down=False))
    stage.trainer.at(10_000.5, stage.finishes)
    assert stage.loop.run() is True
    assert stage.remote.only.status == "FINISHED"


def test_it_backs_off_from_a_server_that_is_down(stage: Stage) -> None:
    stage.remote.down = True
    stage.trainer.at(1000, stage.server(down=False))
    stage.trainer.at(1001, stage.finishes)
    stage.loop.run()
    tries = stage.remote.calls.index("create")
    assert 1000 / MAX_BACKOFF_S <= tries <= 1000 / MAX_BACKOFF_S + 8


def test_it_is_patient_again_after_a_success(stage: Stage) -> None:
    stage.trainer.at(2, stage.server(down=True))
    stage.trainer.at(2.5, stage.logs(1))
    stage.trainer.at(300, stage.server(down=False))
    stage.trainer.at(400, stage.server(down=True))
    stage.trainer.at(400.5, stage.logs(2))
    stage.trainer.at(402.5, stage.server(down=False))
    stage.trainer.at(402.6, stage.finishes)
    assert stage.loop.run() is True
    assert stage.elapsed < 406


def test_a_trainer_that_dies_without_a_word_leaves_a_killed_run(stage: Stage) -> None:
    stage.trainer.at(5, stage.logs(1))
    stage.trainer.at(5.5, stage.trainer.dies)
    assert stage.loop.run() is True
    assert (stage.remote.only.status, stage.remote.only.tags["mypt.status"]) == ("KILLED", "killed")
    assert stage.remote.only.history("train/loss") == [(1, 1.0)]


def test_the_last_words_of_a_trainer_are_heard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a row and dies after the sender found nothing new and before it asks whether the trainer lives."""

    real, looks = stage.loop._drain, []

    def drain() -> bool:
        looks.append(real())
        return looks[-1]

    def last_words() -> bool:
        if looks == [True]:
            looks.append(True)
            stage.journal.log(1, {"train/loss": 1.0})
            stage.trainer.done = True
        return stage.trainer.done

    monkeypatch.setattr(stage.loop, "_drain", drain)
    monkeypatch.setattr(stage.trainer, "is_done", last_words)
    assert stage.loop.run() is True
    assert stage.remote.only.history("train/loss") == [(1, 1.0)]


def test_it_gives_up_when_the_trainer_is_gone_and_the_time_is_up(stage: Stage) -> None:
    stage.remote.down = True
    stage.trainer.at(100, stage.trainer.dies)
    assert stage.loop.run() is False
    assert 120 <= stage.elapsed <= 123
    assert stage.shipper.state.error == "no answer to find"


def test_it_hurries_when_the_trainer_is_gone(stage: Stage) -> None:
    """The back-off of half a minute that it had reached would waste the time that is left."""
    stage.remote.down = True
    stage.trainer.at(200, stage.finishes)
    stage.trainer.at(200.5, stage.trainer.dies)
    stage.trainer.at(204, stage.server(down=False))
    assert stage.loop.run() is True
    assert stage.remote.only.status == "FINISHED"
    assert stage.elapsed < 208


def test_a_run_that_another_trainer_goes_on_with_is_not_called_killed(stage: Stage) -> None:
    stage.trainer.successor = True
    stage.trainer.done = True
    assert stage.loop.run() is True
    assert stage.remote.only.status == "RUNNING"


def test_it_makes_way_at_once_for_the_next_sender(stage: Stage) -> None:
    stage.remote.down = True
    stage.trainer.at(50, stage.trainer.dies)
    stage.trainer.at(50.1, lambda: setattr(stage.trainer, "successor", True))
    assert stage.loop.run() is False
    assert stage.elapsed < 60


def test_telling_the_end_is_tried_again(stage: Stage) -> None:
    stage.trainer.done = True
    stage.remote.broken = {"close"}
    stage.trainer.at(3, stage.remote.broken.clear)
    assert stage.loop.run() is True
    assert stage.remote.only.status == "KILLED"


def test_a_backlog_that_is_too_long_is_left_for_later(tmp_path: Path) -> None:
    stage = Stage(tmp_path, drain_s=0)
    stage.logs(1)()
    stage.trainer.done = True
    assert stage.loop.run() is False
    assert stage.remote.only.points == {}


def test_a_long_outage_does_not_fill_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.remote.down = True
    stage.trainer.at(20_000, stage.server(down=False))
    stage.trainer.at(20_001, stage.finishes)
    with caplog.at_level(logging.INFO):
        stage.loop.run()
    assert len(caplog.records) < 15
    assert "the store answers again after" in caplog.text
    assert stage.shipper.state.error is None
