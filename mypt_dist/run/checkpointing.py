"""Between the live state of a run and its checkpoints: what is written, what is read back, under which names."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mypt_dist.checkpoint import Canary, Checkpoint, CheckpointStore, Manifest, Receipt, Segment, Share
from mypt_dist.checkpoint.layout import rank_state_name
from mypt_dist.data.course import Past
from mypt_dist.engine import Engine, LocalTensor, StateReader, Trainable, rng_state, set_rng_state
from mypt_dist.errors import CheckpointError, NumericError
from mypt_dist.run.canary import engine_entry
from mypt_dist.training.guard import GuardState, ledger_json
from mypt_dist.training.state import TrainState
from mypt_dist.world import JSON

DTYPES = {"torch.float32": "F32", "torch.float64": "F64", "torch.bfloat16": "BF16", "torch.float16": "F16"}

WIDENED = {"BF16": torch.bfloat16, "F16": torch.float16}
"""Element types of which every value is one of fp32."""

ENGINE_FILE = "engine.json"
TOKENIZER_FILE = "tokenizer.json"
GUARD_FILE = "guard.json"


@dataclass
class Checkpointing:
    """Saves and restores one run. ``describe`` holds what the manifest says besides the state."""

    store: CheckpointStore
    engine: Engine
    trainable: Trainable
    describe: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    positions: Callable[[int], Mapping[str, Any]]
    """Where a run of so many samples stands in every source."""
    tracker_ids: Callable[[], dict[str, str]]
    canary: Callable[[], Canary]
    """The loss of a fixed batch; a collective."""
    memory: Callable[[], dict[str, int | float] | None] = lambda: None
    """What was predicted and measured of it, once it was."""
    damage: Callable[[], dict[str, JSON]] = dict
    """Damaged data that was skipped."""
    past: Callable[[int], Past] = Past
    """Which weights have held so far, after so many samples."""
    changes: list[dict[str, JSON]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the run's checkpoints are."""
        return self.store.root

    def share_bytes(self) -> int:
        """Of the tensors that this rank writes."""
        return sum(tensor.flat.nbytes for tensor in self.trainable.local_state())

    def share(self, state: TrainState, metrics: Mapping[str, float]) -> Share:
        """What this rank saves of ``state``. It is copied when asked for: until then it must not be trained on."""
        canary = self.canary()
        tensors = [tensor for tensor in self.trainable.local_state() if tensor.flat.numel()]
        main, rest = self.engine.is_main, {"files", "tensors", "sha256"}
        return Share(
            step=state.step,
            segments=[_segment(tensor) for tensor in tensors],
            fill=lambda memory, offsets: copy_into(tensors, memory, offsets),
            rank_state={"rng": rng_state()},
            files=self._small_files(state) if main else {},
            description=self._manifest(state, metrics, Receipt(files={}, tensors={}), canary).model_dump(
                mode="json", exclude=rest
            )
            if main
            else {},
        )

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> Path:
        """Write a checkpoint on all ranks and return its folder. Raises `SaveError` on every rank alike."""
        canary = self.canary()
        return self.store.save(
            state.step,
            [_segment(tensor) for tensor in self.trainable.local_state()],
            rank_state={"rng": rng_state()},
            files=self._small_files(state) if self.engine.is_main else {},
            describe=lambda files, tensors: self._manifest(
                state, metrics, Receipt(files=dict(files), tensors=dict(tensors)), canary
            ),
        )

    def _small_files(self, state: TrainState) -> dict[str, bytes]:
        small = {
            TOKENIZER_FILE: self.tokenizer,
            ENGINE_FILE: {"scaler": self.trainable.scaler_state()},
            GUARD_FILE: state.guard.to_json(),
        }
        return {name: json.dumps(content, indent=1).encode() for name, content in small.items()}

    def _manifest(
        self,
        state: TrainState,
        metrics: Mapping[str, float],
        written: Receipt,
        canary: Canary,
    ) -> Manifest:
        return Manifest(
            step=state.step,
            tokens=state.tokens,
            samples=state.samples,
            order_hash=state.order_hash,
            sources=dict(self.positions(state.samples)),
            world_size=self.engine.size,
            engine=engine_entry(self.engine),
            tracker=self.tracker_ids(),
            # The perplexity of a loss of 700 nats is infinite, which JSON cannot say: no reason not to save.
            metrics={
                name: value for name, value in metrics.items() if not name.startswith("system/") and isfinite(value)
            },
            memory=self.memory(),
            changes=tuple(self.changes),
            healthy=state.guard.healthy,
            skipped=tuple(ledger_json(state.guard.ledger)),
            canary=canary,
            files=written.files,
            tensors=written.tensors,
            **{**self.describe, "data": {**self.describe["data"], **self._data(state)}},
        )

    def _data(self, state: TrainState) -> dict[str, JSON]:
        """What the manifest says of the data that changes while the run goes on."""
        stretches = self.past(state.samples).stretches
        return {
            "damage": self.damage(),
            "stretches": [{"first": first, "quota": dict(quota)} for first, quota in stretches],
        }

    def note_changes(self, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Record settings that differ from the loaded checkpoint's in all manifests to come."""
        self.changes += [{"key": key, "before": before, "now": now} for key, (before, now) in changes.items()]

    def restore(self, checkpoint: Checkpoint) -> TrainState:
        """Continue where ``checkpoint`` was written. Random states only if the world has the same size."""
        manifest = checkpoint.manifest
        self.trainable.load_state(reader(checkpoint))
        with _as_it_was_saved(checkpoint, ENGINE_FILE):
            self.trainable.load_scaler_state(checkpoint.read_object(ENGINE_FILE)["scaler"])
        if manifest.world_size == self.engine.size:
            with _as_it_was_saved(checkpoint, rank_state_name(self.engine.rank)):
                set_rng_state(checkpoint.rank_state(self.engine.rank)["rng"])
        self.changes = [dict(change) for change in manifest.changes]
        # Checkpoints from before there was a guard have no such file.
        known = GUARD_FILE in manifest.files
        with _as_it_was_saved(checkpoint, GUARD_FILE):
            guard = GuardState.from_json(checkpoint.read_object(GUARD_FILE)) if known else GuardState()
        return TrainState(manifest.step, manifest.tokens, manifest.samples, manifest.order_hash, guard)

    def roll_back(self, state: TrainState) -> TrainState:
        """Load the last healthy checkpoint, to go on behind ``state``'s samples; later ones do not count any more.

        Raises `NumericError` on every rank when there is none.
        """
        healthy = self.store.latest(healthy=True)
        if healthy is None:
            raise NumericError(
                f"step {state.step}: {state.guard.ledger[-1].reason}, and no healthy checkpoint to go back to: lower "
                "optimizer.lr, lengthen train.schedule.warmup, or save more often (train.save_every)"
            )
        changes = self.changes
        with healthy:
            before = self.restore(healthy)
        self.changes = changes
        self.store.set_back(before.step)
        return before.behind(state)


@contextmanager
def _as_it_was_saved(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """Turn what using the content of a file raises, if nothing here wrote it, into `CheckpointError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{checkpoint.folder / name} does not hold what a run saves in it ({reason})") from None


def reader(checkpoint: Checkpoint) -> StateReader:
    """Reads flat ranges of a checkpoint's tensors into host tensors of the same shape and type.

    Weights that are stored in 16 bits, as other programs do, are widened to fp32, which changes none.
    """

    def read(name: str, shape: tuple[int, ...], start: int, into: Tensor) -> None:
        entry = checkpoint.tensor(name)
        dtype = DTYPES[str(into.dtype)]
        narrow = WIDENED.get(entry.dtype) if dtype == "F32" and name.startswith("model/") else None
        if entry.shape != shape or (entry.dtype != dtype and narrow is None):
            raise CheckpointError(
                f"{checkpoint.folder}: {name} is {entry.dtype} {list(entry.shape)}, the model here needs "
                f"{dtype} {list(shape)}: the checkpoint is of another model"
            )
        if narrow is None:
            checkpoint.read_into(name, start, into.numel(), into.numpy().data)
            return
        stored = torch.empty(into.numel(), dtype=narrow)
        checkpoint.read_into(name, start, into.numel(), stored.view(torch.int16).numpy().data)
        into.copy_(stored)

    return read


def copy_into(tensors: Sequence[LocalTensor], memory: memoryview, offsets: Sequence[int]) -> None:
    """Copy every tensor's bytes to its offset in ``memory``, from any device; on a CPU with torch's threads."""
    if not tensors:
        return
    host = torch.frombuffer(memory, dtype=torch.uint8)
    for tensor, offset in zip(tensors, offsets, strict=True):
        place = host[offset : offset + tensor.flat.nbytes]
        place.view(tensor.flat.dtype).copy_(tensor.flat)


def _segment(tensor: LocalTensor) -> Segment:
    flat = tensor.flat
    # Called by the writing thread, tensor after tensor: at most a few are copied to the host at a time.
    return Segment(
        name=tensor.name,
        shape=tensor.shape,
        dtype=DTYPES[str(flat.dtype)],  # type: ignore[arg-type]  # the table holds safetensors' names
        start=tensor.start,
        length=flat.numel(),
        data=lambda: flat.cpu().numpy().data,
    )
