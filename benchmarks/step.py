"""The whole training step, own data loading and logging included, against a bare loop and a peer.

    python -m benchmarks.step [--rounds 15] [--json PATH]

Contestants, each in its own process, in fp32 and bf16 autocast:

* bare: `benchmarks.bare`, eager; on a GPU compiled, too, and waiting for the loss at the end of a turn alone
* ours, ours compiled: `mypt_dist.run.build.train` with default settings, a line of metrics at every step
* trainer: Hugging Face Transformers' Trainer with GPT2LMHeadModel of the same size

On a CPU they train a small model, on a GPU one of GPT-2's size, of which memory is what torch allocates. A figure is
the median over rounds of the bare loop's time divided by the contestant's: above 1 is faster than bare.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.race import Contestant, Ratio, Turns, markdown, parser, race, write_json


@dataclass(frozen=True)
class Size:
    """What is trained, and how long a turn is."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    vocab: int
    turn: int
    """Steps."""


ON_CPU = Size(layers=6, heads=6, width=384, context=256, batch=16, vocab=320, turn=2)
ON_GPU = Size(layers=12, heads=12, width=768, context=1024, batch=8, vocab=50304, turn=20)
WARM_UP = 4
TARGETS = {"ours fp32": 0.97, "ours bf16": 1.0, "ours compiled fp32": 1.0, "ours compiled bf16": 1.0}


class Pacer:
    """Counts steps; a turn ends after the last one of so many."""

    def __init__(self, turns: Turns, steps: int, wait: Callable[[], None]) -> None:
        """``wait`` until the device has done all that it was given."""
        self._turns, self._turn, self._wait = turns, steps, wait
        self._steps, self._begin = -WARM_UP, 0.0

    def step_done(self) -> bool:
        """Call after every step. False when the race is over."""
        self._steps += 1
        going = True
        if self._steps <= 0 or self._steps % self._turn == 0:
            self._wait()
        if self._steps == 0:
            going = self._turns.ready()
        elif self._steps > 0 and self._steps % self._turn == 0:
            going = self._turns.done(time.perf_counter() - self._begin)
        else:
            return True
        self._begin = time.perf_counter()
        return going


def bare(data: Path, bf16: bool, compiled: bool, pacer: Pacer) -> None:
    """Steps until the pacer says stop."""
    import torch

    from benchmarks.bare import BareGPT, BareLoop

    torch.manual_seed(0)
    size = size_here()
    model: torch.nn.Module = BareGPT(size.vocab, size.context, size.layers, size.heads, size.width)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    if compiled:
        model = torch.compile(model)  # type: ignore[assignment]
    loop = BareLoop(model, tokens(data), size.batch, size.context, bf16)
    loop.step()
    while pacer.step_done():
        loop.step()


def ours(data: Path, bf16: bool, compiled: bool, pacer: Pacer) -> None:
    """A run as a user starts it, with the observer that everybody has, plus the pacer."""
    from mypt_dist.run import build
    from mypt_dist.run.config import RunConfig
    from mypt_dist.run.observer import RunObserver
    from mypt_dist.training.state import TrainState

    class Paced(RunObserver):
        def stepped(self, state: TrainState) -> None:
            super().stepped(state)

        def measured(self, state: TrainState, metrics: Any) -> None:
            super().measured(state, metrics)
            if not pacer.step_done():
                raise SystemExit

    build.RunObserver = Paced  # type: ignore[misc]
    size = size_here()
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "out": folder,
                "model": {
                    "type": "gpt", "vocab_size": size.vocab, "context": size.context,
                    "n_layer": size.layers, "n_head": size.heads, "n_embd": size.width,
                },
                "data": {"path": str(data)},
                "optimizer": {"type": "adamw", "lr": 1e-3},
                "train": {
                    "steps": 100_000, "batch_size": size.batch, "precision": "bf16" if bf16 else "fp32",
                    "compile": compiled, "log_every": 1, "eval_every": 100_000, "save_every": 100_000,
                },
                "trackers": [],
            }
        )  # fmt: skip
        build.train(config)


def trainer(data: Path, bf16: bool, compiled: bool, pacer: Pacer) -> None:
    """Transformers' Trainer: its default optimizer is the same fused AdamW."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    size = size_here()

    class Pace(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not pacer.step_done():
                raise SystemExit

    class Crops(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __init__(self) -> None:
            self.tokens = tokens(data)

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            start = index * 7919 % (len(self.tokens) - size.context)
            ids = torch.from_numpy(self.tokens[start : start + size.context].astype(np.int64))
            return {"input_ids": ids, "labels": ids}

    shape = GPT2Config(
        vocab_size=size.vocab, n_positions=size.context, n_layer=size.layers, n_head=size.heads, n_embd=size.width,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=size.batch, max_steps=100_000, logging_steps=1, bf16=bf16,
            use_cpu=not torch.cuda.is_available(), save_strategy="no", report_to=[], disable_tqdm=True,
            weight_decay=0.1,
        )  # fmt: skip
        Trainer(GPT2LMHeadModel(shape), arguments, train_dataset=Crops(), callbacks=[Pace()]).train()


def size_here() -> Size:
    """What this machine can train in a moment."""
    import torch

    return ON_GPU if torch.cuda.is_available() else ON_CPU


def pacer(answers: TextIO) -> Pacer:
    """For the contestant that this process is."""
    import torch

    if not torch.cuda.is_available():
        return Pacer(Turns(answers), ON_CPU.turn, lambda: None)
    turns = Turns(answers, lambda: torch.cuda.max_memory_allocated() / 2**20)
    return Pacer(turns, ON_GPU.turn, torch.cuda.synchronize)


def tokens(data: Path) -> Any:
    """The first shard of the training split."""
    import numpy as np

    from mypt_dist.data.manifest import DatasetManifest
    from mypt_dist.data.shards import open_shard

    manifest = DatasetManifest.read(data)
    return np.asarray(open_shard(data, manifest.splits.train.shards[0], manifest.dtype)).copy()


CONTESTANTS: dict[str, Callable[[Path, bool, bool, Pacer], None]] = {"bare": bare, "ours": ours, "trainer": trainer}


def main() -> None:
    """Run the race and print the table, or be one contestant."""
    options = parser("Time whole training steps against a bare loop and a peer.")
    options.add_argument("--precision", choices=("fp32", "bf16"), action="append")
    options.add_argument("--contestant", nargs=4, metavar=("NAME", "PRECISION", "COMPILED", "DATA"))
    arguments = options.parse_args()
    if arguments.contestant:
        name, precision, compiled, data = arguments.contestant
        answers, sys.stdout = sys.stdout, sys.stderr
        CONTESTANTS[name](Path(data), precision == "bf16", compiled == "compiled", pacer(answers))
        return

    from mypt_dist.data.prepare import PrepareSettings, prepare

    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(["stdlib"], data, PrepareSettings(tokenizer="byte"))
        for precision in arguments.precision or ("fp32", "bf16"):
            seconds, peaks = run(data, precision, arguments.rounds)
            for name in seconds:
                ratio = Ratio.of(seconds[f"bare {precision}"], seconds[name])
                memory = peaks[name] / peaks[f"bare {precision}"]
                target = f"≥ {TARGETS[name]}" if name in TARGETS else ""
                rows.append([name, *ratio.cells(), target, f"{memory:.2f}"])
                figures[name] = {"seconds": seconds[name], "ratio": ratio.median, "peak_mib": peaks[name]}
    print(markdown(["contestant", "speed / bare", "quartiles", "extremes", "target", "memory / bare"], rows))
    write_json(arguments.json, figures)


def run(data: Path, precision: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds by round and peak memory of every contestant in one precision."""
    import torch

    entries = [("bare", "eager"), ("ours", "eager"), ("ours", "compiled"), ("trainer", "eager")]
    if torch.cuda.is_available():
        entries.insert(1, ("bare", "compiled"))
    contestants = [
        Contestant.start(
            f"{name}{' compiled' if how == 'compiled' else ''} {precision}",
            "benchmarks.step", "--contestant", name, precision, how, str(data),
        )
        for name, how in entries
    ]  # fmt: skip
    seconds = race(contestants, rounds)
    return seconds, {contestant.name: contestant.finish() for contestant in contestants}


if __name__ == "__main__":
    main()
