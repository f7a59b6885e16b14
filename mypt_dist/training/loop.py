"""One loop for pretraining and fine-tuning: they differ in their data and their start, not here."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mypt_dist.data.curriculum import MORE_DATA
from mypt_dist.data.loader import Loader, Step
from mypt_dist.engine import Engine, Trainable
from mypt_dist.errors import DataError, MyptError, NumericError
from mypt_dist.training.config import TrainConfig
from mypt_dist.training.damage import DamageBook, shared_failure
from mypt_dist.training.evaluate import Evaluate, language_metrics
from mypt_dist.training.guard import Entry, objection
from mypt_dist.training.replicas import digests, odd_ranks
from mypt_dist.training.saving import Saving
from mypt_dist.training.schedule import factor
from mypt_dist.training.signals import SAVE_NOW, VOTES, StopRequest, Wish
from mypt_dist.training.state import TrainState
from mypt_dist.training.throughput import Phases

Metrics = Mapping[str, float]

MIN_LOSS_SCALE = 1.0
"""Below it fp16 would shrink gradients to save them from overflowing: they are infinite for another reason."""

REMEDY = "lower optimizer.lr, lengthen train.schedule.warmup, or use bf16 for fp16"


class StepResult(NamedTuple):
    """What is known after a step."""

    state: TrainState
    metrics: Callable[[], dict[str, float]]
    """Deferred, because most steps are not logged; a collective."""


class Targets(NamedTuple):
    """What a step learns, over all ranks."""

    tokens: int
    weight: float
    """Of all of them: their number, where none has a weight of its own."""

    @property
    def divisor(self) -> float:
        """What makes a mean of their loss. Where nothing is learned, the loss is nothing, too."""
        return self.weight or 1.0


class Observer(Protocol):
    """Who is told what happens. Called on every rank; what it does with it is its own affair."""

    def stepped(self, state: TrainState) -> None: ...

    def measured(self, state: TrainState, metrics: Metrics) -> None: ...

    def noted(self, state: TrainState, entry: Entry) -> None: ...


@dataclass
class Trainer:
    """The finished parts of a run. Building them is `mypt_dist.run`'s business."""

    config: TrainConfig
    engine: Engine
    trainable: Trainable
    loader: Loader
    evaluate: Evaluate
    saving: Saving
    observer: Observer
    stop: StopRequest
    flops_per_token: int
    peak_flops: float
    """Of all ranks together, as known at the start."""
    phases: Phases = field(default_factory=Phases)
    damage: DamageBook | None = None
    """Keeps count of damaged data that is skipped."""
    compare: Callable[[Mapping[str, float]], dict[str, float]] = lambda speed: {}
    """This rank's milliseconds with those of the others; a collective."""

    def __post_init__(self) -> None:
        # Read before the first step writes scaled rates over them.
        self._peak_lrs = [float(group["initial_lr"]) for group in self.trainable.param_groups]
        self._latest: dict[str, float] = {}

    def fit(self, state: TrainState) -> tuple[TrainState, Wish]:
        """Train until the last step, ``stop_after``, the end of the data, a signal on any rank, or a control file.

        Returns the final state, which is saved, and what ended the run early. Raises `NumericError`, and `DataError`
        where more would be read of a source than is allowed.
        """
        end, began = min(self.config.steps, self.config.stop_after or self.config.steps), state
        wish = Wish()
        while state.step < end and not self.loader.exhausted(state.samples):
            step, targets, wish = self.prepare(state)
            if wish.stop:
                break
            state, metrics = self.train_step(state, step, targets)
            self.observer.stepped(state)
            if state.guard.in_a_row >= self.config.guard.max_skips:
                state = self._roll_back(state)
                continue
            last = state.step == end or self.loader.exhausted(state.samples) is not None
            self._on_its_beat(state, metrics, save=wish.save, last=last)
        if state != began:
            with self.phases.paused("save"):
                self._compare_replicas(state)
                self.saving.finish(state, self._latest)
        exhausted = self.loader.exhausted(state.samples)
        if exhausted and exhausted.then == "error" and state.step < end and not wish.stop:
            raise DataError(f"step {state.step + 1}: {exhausted}: the run has gone back and needs more; {MORE_DATA}")
        return state, wish

    def train_step(self, state: TrainState, step: Step, targets: Targets) -> StepResult:
        """One optimizer update on one global batch, unless there is an objection to it."""
        batches = step.micro_batches
        lr = self._set_learning_rate(state.step)
        total = torch.zeros((), device=self.engine.device)
        with self.phases.phase("compute"):
            for number, batch in enumerate(batches, start=1):
                with self.trainable.micro_batch(last=number == len(batches)):
                    # Divided by the weight of all targets of the step: micro-batches' and ranks' shares make its mean.
                    with self.phases.phase("forward"):
                        nats = self.trainable.model(batch.input_ids, **batch.keywords())
                    loss = nats / targets.divisor
                    with self.phases.phase("backward"):
                        self.trainable.backward(loss)
                total += loss.detach()
        judge = Judge(self, state, total)
        with self.phases.phase("optimizer"):
            update = self.trainable.update(judge)
        loss_scale = self._loss_scale(state.step + 1)

        after = state.after(tokens=targets.tokens, samples=len(step.samples), order_hash=step.fold(state.order_hash))
        if judge.why:
            after = after.refused(state, judge.why)
            self.observer.noted(after, after.guard.ledger[-1])
        else:
            after = after.accepted(judge.mean, update.norm, self.config.guard.window)
        # All positions, learned or not: that is what was computed.
        self.phases.count_step(len(step.samples) * self.loader.context)

        def metrics() -> dict[str, float]:
            (num_bytes,) = self.engine.sum(step.num_bytes())
            return {
                **language_metrics("train", judge.mean * targets.divisor, targets.weight, num_bytes),
                **({} if update.skipped else {"train/grad_norm": update.norm}),
                **loss_scale,
                "train/lr": lr,
                "train/skipped": after.guard.skipped,
                **self._speed(after),
            }

        return StepResult(after, metrics)

    def prepare(self, state: TrainState) -> tuple[Step, Targets, Wish]:
        """The next step's data, its targets over all ranks, and what the ranks want."""
        with self.phases.phase("data_wait"):
            step, failure = self._load(state.samples)
        batches = step.micro_batches if step else []
        mine, my_weight = sum(batch.num_targets for batch in batches), sum(batch.divisor for batch in batches)

        # One collective per step tells every rank how many targets the step has, who failed, who wants to stop or save.
        with self.phases.phase("vote"):
            count, failed, weight, *votes = self.engine.sum(
                mine, failure is not None, my_weight, *self.stop.vote(), *self.saving.vote()
            )
        if failed:
            raise shared_failure(self.engine, failure, f"step {state.step + 1}") from failure
        assert step is not None, "no failure means a step"
        if self.damage is not None:
            self.damage.after_loading(state.step + 1, step, count)
        self.saving.heard(votes[VOTES:])
        return step, Targets(int(count), weight), Wish.of(votes[:VOTES])

    def _on_its_beat(
        self, state: TrainState, metrics: Callable[[], dict[str, float]], *, save: bool, last: bool
    ) -> None:
        config = self.config
        saving = save or last or self.saving.due(state)
        if saving or state.step % config.log_every == 0:
            self._report(state, metrics())
        done = state.step == config.steps or self.loader.exhausted(state.samples) is not None
        if state.step % config.eval_every == 0 or done:
            with self.phases.paused("evaluate"):
                self._report(state, finite(state.step, self.evaluate(state.step)))
        if state.step % config.guard.compare_every == 0 or (saving and not last):
            with self.phases.paused("save"):
                self._compare_replicas(state)
        if saving and not last:
            with self.phases.paused("save"):
                self.saving.begin(state, self._latest)
        if save:
            self.stop.obeyed(SAVE_NOW)

    def _roll_back(self, state: TrainState) -> TrainState:
        guard = self.config.guard
        entry = state.guard.ledger[-1]
        if state.guard.rollbacks >= guard.max_rollbacks:
            raise NumericError(
                f"step {state.step}: {entry.reason}. {state.guard.in_a_row} steps in a row were skipped, after going "
                f"back {state.guard.rollbacks} times: {REMEDY}"
            )
        with self.phases.paused("save"):
            before = self.saving.roll_back(state)
        self.observer.noted(before, before.guard.ledger[-1])
        return before

    def _compare_replicas(self, state: TrainState) -> None:
        """Raise `NumericError` on every rank if one holds other weights than its copies."""
        if self.engine.size == 1:
            return
        mine = digests(self.trainable.replicas())
        told = self.engine.all_gather({"group": self.trainable.copy_group, "digests": [*mine]})
        problem = odd_ranks(told)
        if problem:
            raise NumericError(
                f"step {state.step}: the weights of {problem}: a memory or a processor is faulty. Take that machine "
                "out and start again: the last checkpoint is from before"
            )

    def _loss_scale(self, step: int) -> dict[str, float]:
        """fp16's loss scale, which every overflow halves. Raises `NumericError` when halving it no longer helps."""
        scaler = self.trainable.scaler_state()
        if not scaler:
            return {}
        scale = float(str(scaler["scale"]))
        if scale < MIN_LOSS_SCALE:
            raise NumericError(
                f"step {step}: the gradient overflows fp16 even at a loss scale of {scale}. The last checkpoint is "
                "from before: use train.precision=bf16, or lower optimizer.lr"
            )
        return {"train/loss_scale": scale}

    def _load(self, position: int) -> tuple[Step | None, MyptError | None]:
        try:
            return self.loader.step(position), None
        except MyptError as error:
            return None, error

    def _set_learning_rate(self, step: int) -> float:
        tokens_per_step = self.config.batch_size * self.loader.context
        scale = factor(step, self.config.steps, self.config.schedule, tokens_per_step)
        for group, peak in zip(self.trainable.param_groups, self._peak_lrs, strict=True):
            group["lr"] = peak * scale
        return self._peak_lrs[0] * scale

    def _speed(self, state: TrainState) -> dict[str, float]:
        speed = self.phases.report()
        speed |= self.compare(speed)
        flops = speed["throughput/tokens_per_sec"] * self.flops_per_token
        # A measured peak is low where the machine was busy at the start: what is reached was possible.
        self.peak_flops = max(self.peak_flops, flops)
        return {
            "train/tokens": state.tokens,
            **self.loader.metrics(state.samples),
            **speed,
            "throughput/mfu": flops / self.peak_flops,
            "memory/peak_gib": self.engine.peak_memory() / 2**30,
        }

    def _report(self, state: TrainState, metrics: dict[str, float]) -> None:
        self.observer.measured(state, metrics)
        self._latest |= metrics


class Judge:
    """Asked for each update whether it may be made. It rests on sums over all ranks, so every rank answers alike."""

    def __init__(self, trainer: Trainer, state: TrainState, share: Tensor) -> None:
        """``share``: of this rank in the step's mean loss."""
        self._trainer, self._state, self._share = trainer, state, share
        self.mean = math.nan
        """Loss of the whole step."""
        self.why: str | None = None
        """The objection, if there is one."""

    def __call__(self, norm: float) -> bool:
        engine, config = self._trainer.engine, self._trainer.config
        self.mean, norms = engine.sum(float(self._share), norm)
        if config.precision == "fp16" and math.isfinite(self.mean) and not math.isfinite(norms):
            return False
        self.why = objection(self._state.guard, config.guard, self.mean, norms / engine.size)
        return self.why is None


def finite(step: int, metrics: dict[str, float]) -> dict[str, float]:
    """The same numbers. Raises `NumericError` if one is not finite: the weights themselves are no longer sound."""
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value) and not name.endswith("/ppl")}
    if bad:
        raise NumericError(
            f"step {step}: {', '.join(f'{name} is {value}' for name, value in bad.items())}. The last checkpoint is "
            f"from before: {REMEDY}"
        )
    return metrics
