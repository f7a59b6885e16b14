"""Between the live state of a run and its checkpoints: what is written, what is read back, under which names."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mypt_dist.checkpoint import Checkpoint, CheckpointStore, Manifest, Segment
from mypt_dist.checkpoint.layout import rank_state_name
from mypt_dist.engine import Engine, LocalTensor, StateReader, Trainable, rng_state, set_rng_state
from mypt_dist.errors import CheckpointError
from mypt_dist.training.state import TrainState
from mypt_dist.world import JSON

DTYPES = {"torch.float32": "F32", "torch.float64": "F64", "torch.bfloat16": "BF16", "torch.float16": "F16"}

ENGINE_FILE = "engine.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass
class Checkpointing:
    """Saves and restores one run. ``describe`` holds what the manifest says besides the state."""

    store: CheckpointStore
    engine: Engine
    trainable: Trainable
    describe: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    positions: Callable[[int], dict[str, Any]]
    """Where a run of so many samples stands in every source."""
    tracker_ids: Callable[[], dict[str, str]]
    memory: Callable[[], dict[str, int | float] | None] = lambda: None
    """What was predicted and measured of it, once it was."""
    damage: Callable[[], dict[str, JSON]] = dict
    """Damaged data that was skipped."""
    changes: list[dict[str, JSON]] = field(default_factory=list)

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> Path:
        """Write a checkpoint on all ranks and return its folder. Raises `SaveError` on every rank alike."""
        engine = self.engine

        def manifest(files: Mapping[str, Any], tensors: Mapping[str, Any]) -> Manifest:
            return Manifest(
                step=state.step,
                tokens=state.tokens,
                samples=state.samples,
                order_hash=state.order_hash,
                sources=self.positions(state.samples),
                world_size=engine.size,
                engine={"name": engine.name, "device": engine.device.type},
                tracker=self.tracker_ids(),
                metrics={name: value for name, value in metrics.items() if not name.startswith("system/")},
                memory=self.memory(),
                changes=tuple(self.changes),
                files=dict(files),
                tensors=dict(tensors),
                **{**self.describe, "data": {**self.describe["data"], "damage": self.damage()}},
            )

        small = {TOKENIZER_FILE: self.tokenizer, ENGINE_FILE: {"scaler": self.trainable.scaler_state()}}
        return self.store.save(
            state.step,
            [_segment(tensor) for tensor in self.trainable.local_state()],
            rank_state={"rng": rng_state()},
            files={name: json.dumps(content, indent=1).encode() for name, content in small.items()}
            if engine.is_main
            else {},
            describe=manifest,
        )

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
        return TrainState(manifest.step, manifest.tokens, manifest.samples, manifest.order_hash)


@contextmanager
def _as_it_was_saved(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """Turn what using the content of a file raises, if nothing here wrote it, into `CheckpointError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{checkpoint.folder / name} does not hold what a run saves in it ({reason})") from None


def reader(checkpoint: Checkpoint) -> StateReader:
    """Reads flat ranges of a checkpoint's tensors into host tensors of the same shape and type."""

    def read(name: str, shape: tuple[int, ...], start: int, into: Tensor) -> None:
        entry = checkpoint.tensor(name)
        dtype = DTYPES[str(into.dtype)]
        if entry.shape != shape or entry.dtype != dtype:
            raise CheckpointError(
                f"{checkpoint.folder}: {name} is {entry.dtype} {list(entry.shape)}, the model here needs "
                f"{dtype} {list(shape)}: the checkpoint is of another model"
            )
        checkpoint.read_into(name, start, into.numel(), into.numpy().data)

    return read


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
