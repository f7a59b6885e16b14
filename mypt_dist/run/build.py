"""The composition root: from a checked run file to a trained model. Read this first, then `training/loop.py`."""

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from mypt_dist import log as logs
from mypt_dist.checkpoint import Checkpoint, CheckpointStore, RunLock
from mypt_dist.data.loader import BatchShape, EvalWindows, Loader, Prefetch
from mypt_dist.data.order import Order
from mypt_dist.data.permute import derive_key
from mypt_dist.engine import Engine, StepRecipe, Trainable
from mypt_dist.errors import Interrupted
from mypt_dist.launch.topology import promised_ranks
from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.redact import scrub, without_url_secrets
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.checkpointing import Checkpointing
from mypt_dist.run.config import RunConfig
from mypt_dist.run.console import RunView
from mypt_dist.run.damage import damage_book
from mypt_dist.run.data import RunData, open_data
from mypt_dist.run.main_rank import on_main
from mypt_dist.run.observer import RunObserver
from mypt_dist.run.plan.watch import memory_watch
from mypt_dist.run.provenance import code_version
from mypt_dist.run.record import RunRecord, told
from mypt_dist.run.resume import changed_settings, check_changes, completed
from mypt_dist.training.evaluate import evaluate
from mypt_dist.training.loop import Trainer
from mypt_dist.training.signals import StopRequest
from mypt_dist.training.state import TrainState
from mypt_dist.training.throughput import peak_flops

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    state: TrainState
    steps: int
    """Of the whole schedule."""
    folder: Path
    signal_number: int = 0
    """The signal that stopped it early, or 0."""

    def raise_if_interrupted(self) -> None:
        """Raise `Interrupted` if a signal ended the run: a program that was told to stop says so in its exit code."""
        if self.signal_number:
            name = signal.Signals(self.signal_number).name
            raise Interrupted(
                f"stopped by {name} at step {self.state.step} of {self.steps}, saved; the same command resumes",
                self.signal_number,
            )


@dataclass(frozen=True, slots=True)
class Parts:
    """What training needs of model and data, before and after the engine has prepared them."""

    trainable: Trainable
    order: Order
    loader: Loader
    windows: EvalWindows
    flops_per_token: int
    parameters: int


def train(config: RunConfig, *, allow_changes: Sequence[str] = ()) -> Outcome:
    """Train what ``config`` describes, on every rank of the world; resume if its folder holds a checkpoint.

    Raises a `MyptError` for anything that is the user's, the data's or the disk's fault.
    """
    stop = StopRequest()
    with ExitStack() as stack:
        stack.enter_context(stop.listening())
        # What can be refused without a process group is refused before one: all ranks see the same files.
        data = open_data(config.data, config.model)
        config = config.model_copy(update={"model": config.model.with_vocabulary(data.tokenizer.vocab_size)})
        batch_shape(config.train, config.model.context, 0, promised_ranks(os.environ))

        engine = Engine(precision=config.train.precision, deterministic=config.train.deterministic)
        stack.callback(engine.close)
        logs.install(engine.rank)
        lock = RunLock(config.folder)
        if engine.is_main:
            stack.callback(lock.release)
        on_main(engine, lock.acquire)
        store = CheckpointStore(config.folder / "checkpoints", engine, config.checkpoints, may_commit=lock.still_mine)
        found = store.latest()
        changes = _agree_on_changes(config, data, found, allow_changes)
        shape = batch_shape(config.train, config.model.context, engine.rank, engine.size)
        memory = memory_watch(config, engine.topology, engine.device.type) if engine.is_main else None
        parts = _build(config, data, engine, shape)
        stack.callback(parts.loader.close)

        record = RunRecord(config, engine, data, parts.parameters)
        damage = damage_book(config, data, engine, found, record)
        checkpointing = Checkpointing(
            store=store,
            engine=engine,
            trainable=parts.trainable,
            describe=_description(config, data),
            tokenizer=data.tokenizer.state(),
            positions=lambda samples: _positions(parts.order, samples),
            tracker_ids=record.tracker_ids,
            memory=memory.record if memory else lambda: None,
            damage=damage.to_json,
        )
        # Laid out before the state is loaded: throw-away passes must find throw-away moments.
        parts.trainable.settle(torch.zeros((shape.micro_batch, shape.context), dtype=torch.int64, device=engine.device))
        state = checkpointing.restore(found) if found else TrainState()
        if found:
            found.close()
            checkpointing.note_changes(changes)
        if not found or found.manifest.world_size != engine.size:
            # Ranks must not drop the same units, nor repeat those of an earlier part of the run.
            torch.manual_seed(int(derive_key(config.train.seed, "dropout", engine.rank, state.step)[0]))
        _announce(config, engine, parts, state)

        stack.enter_context(record.kept(found, flops_per_token=parts.flops_per_token))
        view = stack.enter_context(RunView(engine.rank, state.step, config.train.steps))
        observer = RunObserver(view, record, memory, damage.metrics)
        trainer = Trainer(
            config=config.train,
            engine=engine,
            trainable=parts.trainable,
            loader=parts.loader,
            evaluate=lambda: evaluate(engine, parts.trainable.module, parts.windows) if len(parts.windows) else {},
            save=lambda at, metrics: record.saved(at, checkpointing.save(at, metrics)),
            observer=observer,
            stop=stop,
            damage=damage,
            flops_per_token=parts.flops_per_token,
            peak_flops=engine.sum(peak_flops(engine.device, config.train.precision))[0],
        )
        state, signal_number = trainer.fit(state)
        record.ended(state, signal_number)
        return Outcome(state, config.train.steps, config.folder, signal_number)


def _build(config: RunConfig, data: RunData, engine: Engine, shape: BatchShape) -> Parts:
    torch.manual_seed(config.train.seed)
    model = config.model.build()
    flops, parameters = model.flops_per_token(shape.context), sum(p.numel() for p in model.parameters())
    if config.train.compile:
        compile_blocks(model)
    optimizer = config.optimizer.build(model)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    recipe = StepRecipe(
        max_norm=config.train.max_grad_norm,
        micro_batch=shape.micro_batch,
        micro_batches=shape.micro_batches,
        hold_gradients=config.train.hold_gradients,
    )
    trainable = engine.prepare(model, optimizer, recipe)
    vocab_size = _vocab_size(config.model)
    order = data.order(config.train, shape.context)
    ahead = Prefetch(config.data.prefetch, config.data.read_timeout_s)
    loader = Loader(order, data.gather(vocab_size), shape, device=engine.device, ahead=ahead)
    windows = data.evaluation(shape, vocab_size, config.train.eval_windows)
    return Parts(trainable, order, loader, windows, flops, parameters)


def compile_blocks(model: CausalLM) -> None:
    """Block by block: the blocks are alike, so the compiler works once, not once a layer."""
    blocks = model._no_split_modules
    for module in model.modules():
        if type(module).__name__ in blocks:
            module.compile()


def _agree_on_changes(
    config: RunConfig, data: RunData, found: Checkpoint | None, allowed: Sequence[str]
) -> dict[str, tuple[object, object]]:
    """Settings that differ from the checkpoint's; those that make another run must have been allowed."""
    if found is None:
        return {}
    manifest = found.manifest
    changes = changed_settings(without_url_secrets(completed(manifest.run)), told(config))
    if manifest.data["fingerprint"] != data.fingerprint:
        changes["data"] = (manifest.data["fingerprint"], data.fingerprint)
    check_changes(changes, allowed)
    for key, (before, now) in changes.items():
        log.info("changed since the checkpoint: %s: %r -> %r", key, before, now)
    return changes


def _description(config: RunConfig, data: RunData) -> dict[str, object]:
    sources = {
        name: {
            "path": scrub(str(source.path)),
            "weight": source.weight,
            "fingerprint": data.manifests[name].fingerprint,
        }
        for name, source in data.sources.items()
    }
    return {
        "run": told(config),
        "seed": config.train.seed,
        "data": {"fingerprint": data.fingerprint, "tokenizer": data.tokenizer.fingerprint, "sources": sources},
        "code": code_version(),
    }


def _positions(order: Order, samples: int) -> dict[str, object]:
    epochs = order.epochs(samples)
    return {name: {"samples": n, "epochs": epochs[name]} for name, n in order.consumed(samples).items()}


def _vocab_size(model: ModelConfig) -> int:
    assert model.vocab_size is not None, "settled when the tokenizer was known"
    return model.vocab_size


def _announce(config: RunConfig, engine: Engine, parts: Parts, state: TrainState) -> None:
    log.info(
        "%s: %s parameters on %d %s ranks (%s, %s), %s tokens a step%s",
        config.name,
        f"{parts.parameters:,}",
        engine.size,
        engine.device.type,
        engine.name,
        config.train.precision,
        f"{config.train.batch_size * config.model.context:,}",
        f", resuming at step {state.step}" if state.step else "",
    )
