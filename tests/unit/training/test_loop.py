"""When the loop logs, evaluates, saves and stops, and what it does when something is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mypt_dist.data.batch import Batch
from mypt_dist.data.loader import Step
from mypt_dist.data.order import Order, SourceShape
from mypt_dist.engine import Engine, StepRecipe, Update
from mypt_dist.errors import DataError, NumericError
from mypt_dist.training.config import TrainConfig
from mypt_dist.training.loop import Metrics, Trainer
from mypt_dist.training.signals import StopRequest
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

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def step(self, position: int) -> Step:
        if position == self.bad:
            raise DataError("shard 7 is damaged")
        ids = torch.arange(CONTEXT + 1)[None] % VOCAB
        batch = Batch(ids[:, :-1], ids[:, 1:], CONTEXT)
        return Step([batch, batch], ORDER.samples(position, 2), lambda: 8)

    def epochs(self, position: int) -> dict[str, float]:
        return ORDER.epochs(position)


class Diary:
    """What the trainer did, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self.metrics: list[Metrics] = []

    def stepped(self, state: TrainState) -> None:
        self.entries.append(("step", state.step))

    def measured(self, state: TrainState, metrics: Metrics) -> None:
        self.metrics.append(metrics)
        self.entries.append(("train" if "train/loss" in metrics else "val", state.step))

    def saved(self, state: TrainState, metrics: Metrics) -> None:
        self.entries.append(("save", state.step))

    def of(self, kind: str) -> list[int]:
        return [step for entry, step in self.entries if entry == kind]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def trainer(
    engine: Engine, diary: Diary, *, loader: FakeLoader | None = None, lr: float = 0.1, **train: Any
) -> Trainer:
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.param_groups[0]["initial_lr"] = lr
    settings = {"steps": 10, "batch_size": 2, "log_every": 4, "eval_every": 5, "save_every": 3, **train}
    return Trainer(
        config=TrainConfig.model_validate(settings),
        engine=engine,
        trainable=engine.prepare(model, optimizer, StepRecipe(max_norm=1.0)),
        loader=loader or FakeLoader(),  # type: ignore[arg-type]  # the same verbs
        evaluate=lambda: {"val/loss": 1.0},
        save=diary.saved,
        observer=diary,
        stop=StopRequest(),
        flops_per_token=100,
        peak_flops=1e9,
    )


def test_everything_happens_on_its_beat_and_at_the_end(engine: Engine) -> None:
    diary = Diary()
    state, signal_number = trainer(engine, diary).fit(TrainState())
    assert (state.step, state.tokens, state.samples, signal_number) == (10, 80, 20, 0)
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


def test_a_finished_run_is_not_continued(engine: Engine) -> None:
    diary = Diary()
    assert trainer(engine, diary).fit(TrainState(step=10)) == (TrainState(step=10), 0)
    assert diary.entries == []


def test_a_signal_ends_the_run_after_the_step_with_a_save(engine: Engine) -> None:
    diary = Diary()
    running = trainer(engine, diary)
    running.stop.signal_number = 15
    state, signal_number = running.fit(TrainState())
    assert (state.step, signal_number) == (1, 15)
    assert diary.of("save") == [1]


def test_numbers_that_are_not_finite_are_recorded_and_never_saved(engine: Engine) -> None:
    class Poisoner(Diary):
        def stepped(self, state: TrainState) -> None:
            super().stepped(state)
            if state.step == 2:
                poisoned.trainable.module.table.weight.data.fill_(torch.nan)

    diary = Poisoner()
    poisoned = trainer(engine, diary, save_every=1)
    with pytest.raises(NumericError, match=r"step 3: .*train/loss is nan"):
        poisoned.fit(TrainState())
    assert diary.of("save") == [1, 2]
    assert diary.entries[-1] == ("train", 3), "the numbers themselves are in the journal"


def test_what_cannot_be_read_ends_the_run(engine: Engine) -> None:
    with pytest.raises(DataError, match="step 3: shard 7"):
        trainer(engine, Diary(), loader=FakeLoader(bad=4)).fit(TrainState())


def test_what_another_rank_cannot_read_is_an_error_of_this_one_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "sum", lambda *values: [*values[:-1], 1.0])
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
    overflowing.trainable.update = lambda: Update(update().norm * torch.inf, skipped=True)  # type: ignore[method-assign]
    overflowing.trainable.scaler_state = lambda: {"scale": next(scales)}  # type: ignore[method-assign]
    with pytest.raises(NumericError, match=r"step 4: the gradient overflows fp16 even at a loss scale of 0.5.*bf16"):
        overflowing.fit(TrainState())
    assert [metrics["train/loss_scale"] for metrics in diary.metrics if "train/loss" in metrics] == [4.0, 2.0, 1.0]
    assert not any("train/grad_norm" in metrics for metrics in diary.metrics), "infinite, and of no step"
