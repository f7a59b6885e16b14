"""One loop for pretraining and fine-tuning: they differ in their data and their start, not here."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch

from mypt_dist.data.loader import Loader, Step
from mypt_dist.engine import Engine, Trainable
from mypt_dist.errors import LostPeerError, MyptError, NumericError
from mypt_dist.training.config import TrainConfig
from mypt_dist.training.evaluate import Evaluate, language_metrics
from mypt_dist.training.schedule import factor
from mypt_dist.training.signals import StopRequest, decided
from mypt_dist.training.state import TrainState
from mypt_dist.training.throughput import Phases

Metrics = Mapping[str, float]

MIN_LOSS_SCALE = 1.0
"""Below it fp16 would shrink gradients to save them from overflowing: they are infinite for another reason."""


class StepResult(NamedTuple):
    """What is known after an update without waiting for the device."""

    state: TrainState
    metrics: Callable[[], dict[str, float]]
    """Deferred, because reading a device tensor makes the host wait; a collective."""
    stop_signal: int


class Observer(Protocol):
    """Who is told what happens. Called on every rank; what it does with it is its own affair."""

    def stepped(self, state: TrainState) -> None: ...

    def measured(self, state: TrainState, metrics: Metrics) -> None: ...


@dataclass
class Trainer:
    """The finished parts of a run. Building them is `mypt_dist.run`'s business."""

    config: TrainConfig
    engine: Engine
    trainable: Trainable
    loader: Loader
    evaluate: Evaluate
    save: Callable[[TrainState, Metrics], None]
    observer: Observer
    stop: StopRequest
    flops_per_token: int
    peak_flops: float
    """Of all ranks together, as known at the start."""
    phases: Phases = field(default_factory=Phases)
    compare: Callable[[Mapping[str, float]], dict[str, float]] = lambda speed: {}
    """This rank's milliseconds with those of the others; a collective."""

    def __post_init__(self) -> None:
        # Read before the first step writes scaled rates over them.
        self._peak_lrs = [float(group["initial_lr"]) for group in self.trainable.param_groups]

    def fit(self, state: TrainState) -> tuple[TrainState, int]:
        """Train until the last step, ``stop_after``, or a signal on any rank.

        Returns the final state and the signal that ended the run early, or 0. Raises `NumericError`.
        """
        config, signal_number = self.config, 0
        end = min(config.steps, config.stop_after or config.steps)
        latest: dict[str, float] = {}
        while state.step < end and not signal_number:
            state, metrics, signal_number = self.train_step(state)
            self.observer.stepped(state)
            last = state.step == end or signal_number > 0
            saving = last or state.step % config.save_every == 0
            # A diverged state is never saved as good, so the numbers are looked at before every save.
            if saving or state.step % config.log_every == 0:
                latest |= self._report(state, metrics())
            if state.step % config.eval_every == 0 or state.step == config.steps:
                with self.phases.paused("evaluate"):
                    latest |= self._report(state, self.evaluate())
            if saving:
                with self.phases.paused("save"):
                    self.save(state, latest)
        return state, signal_number

    def train_step(self, state: TrainState) -> StepResult:
        """One optimizer update on one global batch."""
        with self.phases.phase("data_wait"):
            step, failure = self._load(state.samples)
        batches = step.micro_batches if step else []

        # One collective per step tells every rank how many targets the step has, whether to stop, who failed.
        mine = sum(batch.num_targets for batch in batches)
        with self.phases.phase("vote"):
            targets, terminate, interrupt, failed = self.engine.sum(mine, *self.stop.vote(), failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise LostPeerError(f"step {state.step + 1}: another rank could not read its data and stopped")
        assert step is not None, "no failure means a step"

        lr = self._set_learning_rate(state.step)
        total = torch.zeros((), device=self.engine.device)
        with self.phases.phase("compute"):
            for number, batch in enumerate(batches, start=1):
                with self.trainable.micro_batch(last=number == len(batches)):
                    # Divided by the targets of the whole step: the micro-batches' and ranks' shares add up to its mean.
                    with self.phases.phase("forward"):
                        nats = self.trainable.model(batch.input_ids, labels=batch.labels, segment_ids=batch.segment_ids)
                    loss = nats / targets
                    with self.phases.phase("backward"):
                        self.trainable.backward(loss)
                total += loss.detach()
        with self.phases.phase("optimizer"):
            update = self.trainable.update()
        loss_scale = self._loss_scale(state.step + 1)

        after = state.after(tokens=int(targets), samples=len(step.samples), order_hash=step.fold(state.order_hash))
        self.phases.count_step(int(targets))

        def metrics() -> dict[str, float]:
            mean, num_bytes = self.engine.sum(float(total), step.num_bytes())
            return {
                **language_metrics("train", mean * targets, targets, num_bytes),
                **({} if update.skipped else {"train/grad_norm": float(update.norm)}),
                **loss_scale,
                "train/lr": lr,
                **self._speed(after),
            }

        return StepResult(after, metrics, decided(terminate, interrupt))

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
            error.local = True
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
        epochs = {f"data/epoch/{name}": value for name, value in self.loader.epochs(state.samples).items()}
        return {
            "train/tokens": state.tokens,
            **epochs,
            **speed,
            "throughput/mfu": flops / self.peak_flops,
            "memory/peak_gib": self.engine.peak_memory() / 2**30,
        }

    def _report(self, state: TrainState, metrics: dict[str, float]) -> dict[str, float]:
        self.observer.measured(state, metrics)
        bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if bad:
            raise NumericError(
                f"step {state.step}: {', '.join(f'{name} is {value}' for name, value in bad.items())}. The last "
                "checkpoint is from before: lower optimizer.lr, lengthen train.schedule.warmup, or use bf16 for fp16"
            )
        return metrics
