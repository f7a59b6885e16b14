"""When the loop logs, evaluates, saves and stops, and what it does when something is wrong."""

import itertools
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mypt_dist.data.batch import Batch
from mypt_dist.data.course import End
from mypt_dist.data.loader import Step
from mypt_dist.data.order import Order, SourceShape
from mypt_dist.engine import Engine, StepRecipe, Update
from mypt_dist.engine.trainable import Accept
from mypt_dist.errors import DataError, NumericError
from mypt_dist.training.config import TrainConfig
from mypt_dist.training.guard import Entry
from mypt_dist.training.loop import Metrics, Trainer
from mypt_dist.training.signals import ControlFiles, StopRequest, Wish
from mypt_dist.training.state import TrainState

VOCAB, CONTEXT = 11, 4
ORDER = Order([SourceShape("main", 1000)], context=CONTEXT, seed=0)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, VOCAB)

    def forward(self, ids: Tensor, *, labels: Tensor, segment_ids: None) -> Tensor:
        return F.cross_entropy(self.table(ids).flatten(0, 1), labels.flatten(), reduction="sum")


class FakeLoader:
    """Two micro-batches of the same tokens in every step; a position in ``bad`` cannot be read."""

    context = CONTEXT

    def __init__(self, bad: int | None = None, end: End | None = None) -> None:
        self.bad, self.end = bad, end

    def step(self, position: int) -> Step:
        if position == self.bad:
            raise DataError("shard 7 is damaged")
        ids = torch.arange(CONTEXT + 1)[None] % VOCAB
        batch = Batch(ids[:, :-1], ids[:, 1:], CONTEXT)
        return Step([batch, batch], ORDER.samples(position, 2), lambda: 8)

    def exhausted(self, position: int) -> End | None:
        return self.end if self.end and position + 2 > self.end.sample else None

    def metrics(self, position: int) -> dict[str, float]:
        return {"data/epoch/main": ORDER.epochs(position)["main"]}


class Diary:
    """What the trainer did, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self.metrics: list[Metrics] = []
        self.last_saved: TrainState | None = None
        self.healthy = TrainState()
        self.save_every = 0
        self.heard_sums: list[list[float]] = []

    def stepped(self, state: TrainState) -> None:
        self.entries.append(("step", state.step))

    def measured(self, state: TrainState, metrics: Metrics) -> None:
        self.metrics.append(metrics)
        self.entries.append(("train" if "train/loss" in metrics else "val", state.step))

    def noted(self, state: TrainState, entry: Entry) -> None:
        self.entries.append(("skip" if entry.back_to is None else "back", entry.step))

    def due(self, state: TrainState) -> bool:
        return state.step % self.save_every == 0

    def vote(self) -> list[float]:
        return [3.0, 4.0]

    def heard(self, sums: Sequence[float]) -> None:
        self.heard_sums.append([*sums])

    def begin(self, state: TrainState, metrics: Metrics) -> None:
        self.entries.append(("save", state.step))
        self.last_saved = state
        if state.guard.healthy:
            self.healthy = state

    def finish(self, state: TrainState, metrics: Metrics) -> Path:
        if state != self.last_saved:
            self.begin(state, metrics)
        return Path()

    def roll_back(self, state: TrainState) -> TrainState:
        return self.healthy.behind(state)

    def of(self, kind: str) -> list[int]:
        return [step for entry, step in self.entries if entry == kind]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def trainer(
    engine: Engine,
    diary: Diary,
    model: Tiny | None = None,
    *,
    loader: FakeLoader | None = None,
    lr: float = 0.1,
    **train: Any,
) -> Trainer:
    torch.manual_seed(0)
    model = model or Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.param_groups[0]["initial_lr"] = lr
    settings: dict[str, Any] = {"steps": 10, "batch_size": 2, "log_every": 4, "eval_every": 5, "save_every": 3, **train}
    diary.save_every = settings["save_every"]
    return Trainer(
        config=TrainConfig.model_validate(settings),
        engine=engine,
        trainable=engine.prepare(model, optimizer, StepRecipe(max_norm=1.0)),
        loader=loader or FakeLoader(),  # type: ignore[arg-type]  # the same verbs
        evaluate=lambda step: {"val/loss": 1.0},
        saving=diary,
        observer=diary,
        stop=StopRequest(),
        flops_per_token=100,
        peak_flops=1e9,
    )


def test_everything_happens_on_its_beat_and_at_the_end(engine: Engine) -> None:
    diary = Diary()
    state, wish = trainer(engine, diary).fit(TrainState())
    assert (state.step, state.tokens, state.samples, wish) == (10, 80, 20, Wish())
    assert diary.of("step") == list(range(1, 11))
    assert diary.of("train") == [3, 4, 6, 8, 9, 10], "before every save, whatever log_every says"
    assert diary.of("val") == [5, 10]
    assert diary.of("save") == [3, 6, 9, 10]
    assert diary.entries[-1] == ("save", 10)


def test_stopping_early_leaves_the_schedule_alone(engine: Engine) -> None:
    whole, part, rest = Diary(), Diary(), Diary()
    trainer(engine, whole, log_every=1).fit(TrainState())
    stopped, _ = trainer(engine, part, log_every=1, stop_after=4).fit(TrainState())
    assert stopped.step == 4
    assert part.of("save") == [3, 4]
    trainer(engine, rest, log_every=1).fit(stopped)

    def rates(*diaries: Diary) -> list[float]:
        return [m["train/lr"] for diary in diaries for m in diary.metrics if "train/lr" in m]

    assert rates(part, rest) == rates(whole)
    assert rates(whole)[0] == 0.1
    assert rates(whole)[-1] < 0.02


def test_votes_on_saves_travel_with_every_step(engine: Engine) -> None:
    diary = Diary()
    trainer(engine, diary, steps=3).fit(TrainState())
    assert diary.heard_sums == [[3.0, 4.0]] * 3


def test_a_finished_run_is_not_continued(engine: Engine) -> None:
    diary = Diary()
    assert trainer(engine, diary).fit(TrainState(step=10)) == (TrainState(step=10), Wish())
    assert diary.entries == []


class Stopper(Diary):
    """Asks for something after some steps."""

    def __init__(self, at: int, ask: Callable[[], None]) -> None:
        super().__init__()
        self.at, self.ask = at, ask

    def stepped(self, state: TrainState) -> None:
        super().stepped(state)
        if state.step == self.at:
            self.ask()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_the_run_between_two_steps_with_a_save(engine: Engine, number: signal.Signals) -> None:
    diary = Stopper(4, lambda: setattr(running.stop, "signal_number", number))
    running = trainer(engine, diary)
    state, wish = running.fit(TrainState())
    assert (state.step, wish.signal_number, wish.stop) == (4, number, True)
    assert diary.of("save") == [3, 4]


def test_a_signal_during_the_start_trains_nothing_and_saves_nothing(engine: Engine) -> None:
    diary = Diary()
    running = trainer(engine, diary)
    running.stop.signal_number = signal.SIGTERM
    assert running.fit(TrainState()) == (TrainState(), Wish(signal.SIGTERM, stop=True))
    assert diary.entries == []


def test_files_make_a_run_save_and_stop(engine: Engine, tmp_path: Path) -> None:
    diary = Stopper(4, (tmp_path / "SAVE_NOW").touch)
    running = trainer(engine, diary, save_every=100)
    clock = itertools.count()
    running.stop.files = ControlFiles(tmp_path, clock=lambda: float(next(clock)))
    state, wish = running.fit(TrainState())
    assert (state.step, diary.of("save"), wish.stop) == (10, [5, 10], False)
    assert not (tmp_path / "SAVE_NOW").exists(), "obeyed once"
    stopped = Stopper(2, (tmp_path / "STOP").touch)
    running = trainer(engine, stopped)
    running.stop.files = ControlFiles(tmp_path, clock=lambda: float(next(clock)))
    state, wish = running.fit(TrainState())
    assert (state.step, stopped.of("save"), wish) == (2, [2], Wish(stop=True))


def test_a_step_with_nothing_to_learn_has_no_loss_and_no_gradient(engine: Engine) -> None:
    class Unlearned(FakeLoader):
        def step(self, position: int) -> Step:
            step = super().step(position)
            nothing = [replace(batch, labels=batch.labels * 0 - 100, num_targets=0) for batch in step.micro_batches]
            return replace(step, micro_batches=nothing, num_bytes=lambda: 0) if position == 4 else step

    diary = Diary()
    running = trainer(engine, diary, log_every=1)
    running.loader = Unlearned()  # type: ignore[assignment]
    state, _ = running.fit(TrainState())
    losses = [metrics["train/loss"] for metrics in diary.metrics if "train/loss" in metrics]
    assert losses[2] == 0.0
    assert all(loss > 0 for number, loss in enumerate(losses) if number != 2)
    assert (state.step, state.tokens, state.guard.skipped) == (10, 9 * 2 * CONTEXT, 0)


class Poisoned(Tiny):
    """A model whose losses, at some of its steps, are what they should not be."""

    def __init__(self, bad: dict[int, float]) -> None:
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, ids: Tensor, *, labels: Tensor, segment_ids: None) -> Tensor:
        self.calls += 1
        return super().forward(ids, labels=labels, segment_ids=segment_ids) * self.bad.get((self.calls + 1) // 2, 1.0)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_an_update_that_is_not_finite_is_not_made(engine: Engine, poison: float) -> None:
    diary = Diary()
    poisoned = trainer(engine, diary, Poisoned({3: poison}), log_every=1)
    weights: list[Tensor] = []
    update = poisoned.trainable.update

    def watched(accept: Accept) -> Update:
        before = poisoned.trainable.module.table.weight.detach().clone()
        done = update(accept)
        weights.append(poisoned.trainable.module.table.weight.detach() - before)
        return done

    poisoned.trainable.update = watched  # type: ignore[method-assign]
    state, _ = poisoned.fit(TrainState())
    assert [bool(change.any()) for change in weights] == [True, True, False] + [True] * 7
    assert (state.step, state.samples, state.guard.skipped, len(state.guard.losses)) == (10, 20, 1, 9)
    assert diary.of("skip") == [3]
    assert [entry.first for entry in state.guard.ledger] == [4]
    rows = [metrics for metrics in diary.metrics if "train/loss" in metrics]
    assert not math.isfinite(rows[2]["train/loss"]), "the number itself is in the journal"
    assert [row["train/skipped"] for row in rows] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_many_in_a_row_make_the_run_go_back_and_pass_over_the_samples(engine: Engine) -> None:
    diary = Diary()
    poisoned = trainer(engine, diary, Poisoned({5: torch.nan, 6: torch.nan}), guard={"max_skips": 2}, save_every=2)
    state, _ = poisoned.fit(TrainState())
    assert diary.of("skip") == [5, 6]
    assert diary.of("back") == [6]
    assert diary.of("step") == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10]
    assert (state.step, state.samples) == (10, 24), "two steps' samples taught nothing"
    assert state.guard.ledger[-1] == Entry(6, first=8, end=12, reason="the loss is nan", back_to=4)
    assert state.guard.rollbacks == 1


def test_a_run_that_goes_back_in_vain_ends(engine: Engine) -> None:
    diary = Diary()
    always = Poisoned(dict.fromkeys(range(3, 99), torch.nan))
    poisoned = trainer(engine, diary, always, guard={"max_skips": 2, "max_rollbacks": 2}, save_every=1)
    with pytest.raises(NumericError, match=r"step 4: the loss is nan. 2 steps in a row.* after going back 2 times"):
        poisoned.fit(TrainState())
    assert len(diary.of("back")) == 2
    assert diary.healthy.step == 2, "what was saved in the storm is not gone back to"


def test_weights_that_give_no_number_are_never_saved(engine: Engine) -> None:
    diary = Diary()
    sick = trainer(engine, diary, eval_every=2, save_every=2)
    sick.evaluate = lambda step: {"val/loss": math.nan}
    with pytest.raises(NumericError, match="step 2: val/loss is nan"):
        sick.fit(TrainState())
    assert diary.of("save") == []


def test_a_run_whose_data_ends_is_measured_and_saved_before_the_step_that_would_need_more(engine: Engine) -> None:
    diary = Diary()
    ended = FakeLoader(end=End(15, ("web",), "stop"))
    state, wish = trainer(engine, diary, loader=ended).fit(TrainState())
    assert (state.step, state.samples, wish) == (7, 14, Wish())
    assert (diary.of("val"), diary.of("save")) == ([5, 7], [3, 6, 7])


def test_a_source_that_must_not_be_read_again_ends_a_run_that_went_back_and_needs_more(engine: Engine) -> None:
    diary = Diary()
    with pytest.raises(DataError, match=r"step 8: data.sources.web is exhausted.*raise the source's max_epochs"):
        trainer(engine, diary, loader=FakeLoader(end=End(14, ("web",), "error"))).fit(TrainState())
    assert diary.of("save") == [3, 6, 7]


def test_what_cannot_be_read_ends_the_run(engine: Engine) -> None:
    with pytest.raises(DataError, match="step 3: shard 7"):
        trainer(engine, Diary(), loader=FakeLoader(bad=4)).fit(TrainState())


def test_what_another_rank_cannot_read_is_an_error_of_this_one_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "sum", lambda *values: [values[0], 1.0, *values[2:]])
    monkeypatch.setattr(engine, "all_gather", lambda mine: [mine, {"kind": "DataError", "text": "shard 7 is damaged"}])
    monkeypatch.setattr(type(engine), "size", 2)
    with pytest.raises(DataError, match="step 1 on rank 1: shard 7 is damaged"):
        trainer(engine, Diary()).fit(TrainState())


def test_metrics_speak_of_the_whole_step(engine: Engine) -> None:
    diary = Diary()
    trainer(engine, diary, steps=1, log_every=1).fit(TrainState())
    first = diary.metrics[0]
    nats = first["train/loss"] * 8
    assert first["train/bpb"] == pytest.approx(nats / 0.6931471805599453 / 8)
    assert first["train/ppl"] == pytest.approx(2.718281828459045 ** first["train/loss"])
    assert first["train/tokens"] == 8
    assert first["data/epoch/main"] == 2 / 199
    speed = first["throughput/tokens_per_sec"]
    assert first["throughput/mfu"] == pytest.approx(speed * 100 / 1e9)


def test_the_peak_is_never_below_what_is_reached(engine: Engine) -> None:
    diary = Diary()
    busy = trainer(engine, diary, log_every=1)
    busy.peak_flops = 1.0
    busy.fit(TrainState())
    used = [metrics["throughput/mfu"] for metrics in diary.metrics if "throughput/mfu" in metrics]
    assert max(used) == 1.0
    assert used[0] == 1.0


def test_a_loss_scale_below_its_floor_ends_the_run_and_one_above_it_is_told(engine: Engine) -> None:
    diary = Diary()
    overflowing = trainer(engine, diary, log_every=1)
    update, scales = overflowing.trainable.update, iter([4.0, 2.0, 1.0, 0.5])
    overflowing.trainable.update = lambda accept: Update(update(accept).norm * torch.inf, skipped=True)  # type: ignore[method-assign]
    overflowing.trainable.scaler_state = lambda: {"scale": next(scales)}  # type: ignore[method-assign]
    with pytest.raises(NumericError, match=r"step 4: the gradient overflows fp16 even at a loss scale of 0.5.*bf16"):
        overflowing.fit(TrainState())
    assert [metrics["train/loss_scale"] for metrics in diary.metrics if "train/loss" in metrics] == [4.0, 2.0, 1.0]
    assert not any("train/grad_norm" in metrics for metrics in diary.metrics), "infinite, and of no step"
