"""What a person sees of a run: a live bar on a terminal, plain lines in a log."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mypt_dist import log as logs
from mypt_dist.training.state import TrainState

log = logging.getLogger(__name__)


class RunView:
    """Shows a run on stderr. Its lines are the log's: on a terminal they scroll above the bar."""

    def __init__(self, rank: int, first: int, last: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._rank, self._last = rank, last
        self._first, self._begin = first, time.monotonic()
        self._progress = self._bar() if rank == 0 and self._console.is_terminal else None
        self._task = (
            self._progress.add_task("training", total=last, completed=first, loss="") if self._progress else None
        )

    def __enter__(self) -> Self:
        if self._progress:
            logs.install(self._rank, lambda text: self._console.print(text, markup=False))
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            # A terminal that is gone cannot be tidied up, and must not end what it showed.
            with suppress(OSError):
                self._progress.stop()
            logs.install(self._rank)

    def stepped(self, state: TrainState) -> None:
        """Move the bar."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=state.step)

    def measured(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """A line for every measurement; the bar shows the newest training loss."""
        if self._rank != 0:
            return
        if "train/loss" in metrics:
            if self._progress and self._task is not None:
                self._progress.update(self._task, loss=f"loss {metrics['train/loss']:.3f}")
            log.info("%s", self._training_line(state, metrics))
        for prefix in sorted(name.removesuffix("/loss") for name in metrics if name.endswith("/loss")):
            if prefix != "train":
                log.info("step %d  validation%s", state.step, _validation(prefix, metrics))

    def _training_line(self, state: TrainState, metrics: Mapping[str, float]) -> str:
        grad = f"grad {metrics['train/grad_norm']:.2f}" if "train/grad_norm" in metrics else "skipped"
        return (
            f"step {state.step}/{self._last}  loss {metrics['train/loss']:.4f}  lr {metrics['train/lr']:.2e}  "
            f"{grad}  {metrics['throughput/tokens_per_sec']:,.0f} tok/s  "
            f"mfu {metrics['throughput/mfu']:.0%}  wait {metrics['time/data_wait_ms']:.1f} ms  eta {self._eta(state)}"
        )

    def _eta(self, state: TrainState) -> str:
        done = state.step - self._first
        left = (time.monotonic() - self._begin) / max(done, 1) * (self._last - state.step)
        minutes, seconds = divmod(round(left), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )


def _validation(prefix: str, metrics: Mapping[str, float]) -> str:
    """What was measured on one set of windows."""
    name = prefix.removeprefix("val").removeprefix("/")
    bpb = f"  bpb {metrics[f'{prefix}/bpb']:.3f}" if f"{prefix}/bpb" in metrics else ""
    return (
        f"{f' {name}' if name else ''}: loss {metrics[f'{prefix}/loss']:.4f}  ppl {metrics[f'{prefix}/ppl']:.1f}{bpb}"
    )
