"""The composition root: from a checked run file to a trained model. Read this first, then `training/loop.py`."""

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from mypt_dist import log as logs
from mypt_dist.checkpoint import Checkpoint, CheckpointStore, RunLock, fill_from_mirror, mirrored
from mypt_dist.data import lineage
from mypt_dist.data.coverage import Progress, coverage_of
from mypt_dist.data.curriculum import Measure
from mypt_dist.data.loader import BatchShape, EvalWindows, Loader, Prefetch
from mypt_dist.data.order import Order
from mypt_dist.data.permute import derive_key
from mypt_dist.engine import Engine, StepRecipe, Trainable
from mypt_dist.errors import Interrupted
from mypt_dist.launch.topology import promised_ranks
from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.optim.freezing import freeze
from mypt_dist.redact import scrub, without_url_secrets
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.canary import CanaryBatch
from mypt_dist.run.checkpointing import Checkpointing
from mypt_dist.run.config import RunConfig
from mypt_dist.run.console import RunView
from mypt_dist.run.coverage import judge_coverage
from mypt_dist.run.damage import damage_book
from mypt_dist.run.data import RunData, open_data
from mypt_dist.run.main_rank import before_ranks_meet, on_main
from mypt_dist.run.observer import RunObserver
from mypt_dist.run.plan.watch import memory_watch
from mypt_dist.run.provenance import code_version
from mypt_dist.run.questions import fingerprint, fixed_questions
from mypt_dist.run.record import RunRecord, told
from mypt_dist.run.resume import changed_content, changed_settings, check_changes, completed, past_of
from mypt_dist.run.same_start import require_same_start, start_facts
from mypt_dist.run.saving import run_saving
from mypt_dist.run.starting import Start, starting_point
from mypt_dist.run.templates import recorded_template
from mypt_dist.run.watching import RunWatch
from mypt_dist.training.answers import Answers, Questions, ask_all
from mypt_dist.training.damage import together
from mypt_dist.training.evaluate import evaluate_all
from mypt_dist.training.loop import Trainer
from mypt_dist.training.signals import STOP, ControlFiles, StopRequest
from mypt_dist.training.state import TrainState
from mypt_dist.training.stragglers import Stragglers
from mypt_dist.training.throughput import Phases, peak_flops
from mypt_dist.world import JSON

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
                f"stopped by {name} at step {self.state.step} of {self.steps}{', saved' if self.state.step else ''}; "
                "the same command resumes",
                self.signal_number,
            )


@dataclass(frozen=True, slots=True)
class Parts:
    """What training needs of model and data, before and after the engine has prepared them."""

    trainable: Trainable
    shape: BatchShape
    loader: Loader
    evaluations: Mapping[str, EvalWindows]
    """By the prefix of their metrics."""
    canary: CanaryBatch
    flops_per_token: int
    parameters: int
    frozen: int
    """Of the parameters."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that is measured at a step besides training itself."""

    engine: Engine
    parts: Parts
    questions: Questions | None
    stopping: Callable[[], bool]
    keep: Callable[[int, Answers], None]

    def __call__(self, step: int) -> dict[str, float]:
        module = self.parts.trainable.module
        metrics = evaluate_all(self.engine, module, self.parts.evaluations, self.stopping)
        if self.questions is None:
            return metrics
        answers = ask_all(self.engine, module, self.questions, self.stopping)
        self.keep(step, answers)
        return {**metrics, **answers.metrics()}


def train(config: RunConfig, *, allow_changes: Sequence[str] = ()) -> Outcome:
    """Train what ``config`` describes, on every rank of the world; resume if its folder holds a checkpoint.

    Raises a `MyptError` for anything that is the user's, the data's or the disk's fault.
    """
    stop = StopRequest(ControlFiles(config.folder) if int(os.environ.get("RANK", "0")) == 0 else None)
    with ExitStack() as stack:
        watch = stack.enter_context(RunWatch(config.watch, config.folder, os.environ))
        stack.enter_context(stop.listening())
        # What can be refused without a process group is refused before one: all ranks see the same files.
        with before_ranks_meet():
            config, data, start, questions = _opened(config)
        stack.callback(data.supply.close)

        engine = _connect(config, watch)
        stack.callback(engine.close)
        logs.install(engine.rank)
        require_same_start(engine, start_facts(config, data, engine.topology, _by_content(start, questions)))
        lock = _take_folder(config.folder, engine, watch, stop)
        stack.callback(lock.release)
        store = CheckpointStore(
            config.folder / "checkpoints", engine, config.checkpoints.retention, may_commit=lock.still_mine
        )
        on_main(engine, lambda: fill_from_mirror(store.root, config.checkpoints))
        found = store.latest(on_corrupt=config.checkpoints.on_corrupt)
        changes = _agree_on_changes(config, data, found, allow_changes)
        order = _order(config, data, found, engine)
        memory = memory_watch(config, engine.topology, engine.device.type) if engine.is_main else None
        parts = _build(config, data, order, engine, watch)
        stack.callback(parts.loader.close)

        record = RunRecord(config, engine, data, (parts.parameters, parts.frozen), _origin(found, start))
        damage = damage_book(config, data, engine, found, record)
        checkpointing = Checkpointing(
            store=store,
            engine=engine,
            trainable=parts.trainable,
            describe={**_description(config, data), "lock_token": lock.token, "origin": record.origin},
            tokenizer=data.tokenizer.state(),
            positions=order.positions,
            past=order.course.past,
            tracker_ids=record.tracker_ids,
            canary=parts.canary.sing,
            memory=memory.record if memory else lambda: None,
            damage=damage.to_json,
        )
        # Laid out before the state is loaded: throw-away passes must find throw-away moments.
        parts.trainable.settle(torch.zeros(parts.shape.tokens, dtype=torch.int64, device=engine.device))
        watch.enter("restore")
        state = _first_state(found, start, checkpointing, parts.canary, config.train.seed)
        checkpointing.note_changes(changes)
        _announce(config, engine, parts, state, None if found else start)
        together(engine, lambda: data.look_ahead(order, parts.shape, state.samples), "the data of the first steps")

        stack.enter_context(mirrored(store.root, config.checkpoints, engine))
        stack.enter_context(record.kept(found, flops_per_token=parts.flops_per_token))
        view = stack.enter_context(RunView(engine.rank, state.step, config.train.steps))
        observer = RunObserver(view, record, memory, watch, lambda: {**damage.metrics(), **data.supply.metrics()})
        saving = stack.enter_context(run_saving(config, checkpointing, record, lock, state.step))
        trainer = Trainer(
            config=config.train,
            engine=engine,
            trainable=parts.trainable,
            loader=parts.loader,
            evaluate=Evaluation(engine, parts, questions, stop.stopping, record.answered),
            saving=saving,
            observer=observer,
            stop=stop,
            damage=damage,
            flops_per_token=parts.flops_per_token,
            peak_flops=engine.sum(peak_flops(engine.device, config.train.precision))[0],
            phases=Phases(on_change=watch.enter),
            compare=Stragglers(engine, config.watch.slow_factor).compare,
        )
        with watch.training(state.step):
            state, wish = trainer.fit(state)
        record.ended(state, wish, parts.loader.exhausted(state.samples))
        return Outcome(state, config.train.steps, config.folder, wish.signal_number)


def _opened(config: RunConfig) -> tuple[RunConfig, RunData, Start | None, Questions | None]:
    """The datasets of a run, the run as they settle it, what a new run starts from, and what evaluations ask.

    Raises `ConfigError`, `DataError`, and `CheckpointError` for a corrupt one to start from.
    """
    config = config.with_sources()
    data = open_data(config.data, config.open_model(), config.evaluation)
    config = config.with_vocabulary(data.tokenizer.vocab_size)
    batch_shape(config.train, config.model.context, 0, promised_ranks(os.environ))
    data.check_cache(config.train, config.model.context)
    questions = fixed_questions(config.evaluation.answers, data.tokenizer, config.model.context)
    return config, data, starting_point(config, data.tokenizer), questions


def _by_content(start: Start | None, questions: Questions | None) -> dict[str, JSON]:
    """Files that a run reads besides its datasets, by what is in them."""
    return {
        "the checkpoint to start from": start.manifest.sha256 if start else None,
        "the conversations of evaluation.answers": fingerprint(questions),
    }


def _connect(config: RunConfig, watch: RunWatch) -> Engine:
    watch.enter("rendezvous")
    with before_ranks_meet():
        engine = Engine(
            precision=config.train.precision,
            deterministic=config.train.deterministic,
            timeout_s=config.watch.first_step_s,
        )
    watch.let_wait = engine.let_wait
    return engine


def _take_folder(folder: Path, engine: Engine, watch: RunWatch, stop: StopRequest) -> RunLock:
    """Rank 0 locks the run's folder. From then on the guards of all ranks may write there."""
    lock = RunLock(folder)

    def take() -> None:
        lock.acquire()
        watch.forget_others()
        # A wish from before this start.
        stop.obeyed(STOP)

    on_main(engine, take)
    watch.publish()
    watch.enter("data")
    return lock


def _build(config: RunConfig, data: RunData, order: Order, engine: Engine, watch: RunWatch) -> Parts:
    watch.enter("model")
    shape = batch_shape(config.train, config.model.context, engine.rank, engine.size)
    torch.manual_seed(config.train.seed)
    model = config.model.build()
    flops, parameters = model.flops_per_token(shape.context), sum(p.numel() for p in model.parameters())
    frozen = freeze(model, config.train.freeze)
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
    gather = data.gather(vocab_size)
    ahead = Prefetch(config.data.prefetch, config.data.read_timeout_s, data.supply.at)
    loader = Loader(order, gather, shape, device=engine.device, ahead=ahead)
    evaluations = data.evaluations(shape, vocab_size, config.train.eval_windows)
    first = together(
        engine, lambda: gather.batch(order.samples(order.first_known, 1), shape.context), "the first window"
    )
    canary = CanaryBatch(first, trainable, engine, config.train.precision)
    return Parts(trainable, shape, loader, evaluations, canary, flops, parameters, frozen)


def _origin(found: Checkpoint | None, start: Start | None) -> dict[str, JSON] | None:
    """Where the weights come from, for the manifests: a resumed run knows it from its own."""
    if found:
        return found.manifest.origin
    return start.origin() if start else None


def _first_state(
    found: Checkpoint | None, start: Start | None, checkpointing: Checkpointing, canary: CanaryBatch, seed: int
) -> TrainState:
    """Where the run stands: at the checkpoint that was found, or at its beginning, with the weights of ``start``."""
    engine, state = checkpointing.engine, TrainState()
    if found:
        with found:
            state = checkpointing.restore(found)
        canary.check(found.manifest)
    elif start:
        start.load(engine, checkpointing.trainable)
    if not found or found.manifest.world_size != engine.size:
        # Ranks must not drop the same units, nor repeat those of an earlier part of the run.
        torch.manual_seed(int(derive_key(seed, "dropout", engine.rank, state.step)[0]))
    return state


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
    changes |= changed_content(manifest.data, {name: one.fingerprint for name, one in data.manifests.items()})
    check_changes(changes, allowed, data.kept_versions(manifest.data))
    for key, (before, now) in changes.items():
        log.info("changed since the checkpoint: %s: %r -> %r", key, before, now)
    if found.passed_over:
        changes["corrupt checkpoint"] = (max(found.passed_over), manifest.step)
    return changes


def _order(config: RunConfig, data: RunData, found: Checkpoint | None, engine: Engine) -> Order:
    """The order of the data behind ``found``. Raises `ConfigError` where it reads less than the run file wants."""
    train, context = config.train, config.model.context
    done = Progress(found.manifest.step, found.manifest.samples) if found else Progress()
    samples = done.samples + max(0, train.steps - done.step) * train.batch_size
    order = data.order(train, context, past_of(found.manifest) if found else None, samples)
    tokens = {name: manifest.splits.train.tokens for name, manifest in data.manifests.items()}
    coverage = coverage_of(order.course, Measure(train.batch_size, context), tokens, train.steps, done)
    judge_coverage(coverage, config.data, tell=engine.is_main)
    return order


def _description(config: RunConfig, data: RunData) -> dict[str, object]:
    sources = {
        name: {
            "path": scrub(str(source.path)),
            "weight": data.config.own_weights()[name],
            "fingerprint": data.manifests[name].fingerprint,
            "lineage": lineage.summary(data.manifests[name]),
        }
        for name, source in data.sources.items()
    }
    return {
        "run": told(config),
        "seed": config.train.seed,
        "data": {
            "fingerprint": data.fingerprint,
            "tokenizer": data.tokenizer.fingerprint,
            "sources": sources,
            **recorded_template(data.manifests.values()),
        },
        "code": code_version(),
    }


def _vocab_size(model: ModelConfig) -> int:
    assert model.vocab_size is not None, "settled when the tokenizer was known"
    return model.vocab_size


def _announce(config: RunConfig, engine: Engine, parts: Parts, state: TrainState, start: Start | None) -> None:
    if start:
        manifest = start.manifest
        named = manifest.run.get("name") or manifest.engine.get("name")
        log.info("starting from %s (%s, step %d)", start.folder, named, manifest.step)
        table = start.table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            log.info("  %s", "  ".join(map(str.ljust, row, widths)).rstrip())
    log.info(
        "%s: %s parameters%s on %d %s ranks (%s, %s), %s tokens a step%s",
        config.name,
        f"{parts.parameters:,}",
        f", {parts.frozen:,} of them frozen," if parts.frozen else "",
        engine.size,
        engine.device.type,
        engine.name,
        config.train.precision,
        f"{config.train.batch_size * config.model.context:,}",
        f", resuming at step {state.step}" if state.step else "",
    )
