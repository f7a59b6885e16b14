"""How a model that another program trained becomes the one checkpoint of a run's folder."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import JsonValue, ValidationError

from mypt_dist.checkpoint import (
    CheckpointStore,
    Disk,
    FileEntry,
    Manifest,
    RunLock,
    Segment,
    TensorEntry,
    open_checkpoint,
)
from mypt_dist.checkpoint.catalog import CHECKPOINTS
from mypt_dist.checkpoint.layout import is_trash, parse_step
from mypt_dist.checkpoint.lock import LOCK
from mypt_dist.config import Config, Sha256
from mypt_dist.data.order import GENESIS
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.errors import ConfigError, MyptError, SaveError
from mypt_dist.interchange.fitting import check_fits
from mypt_dist.models import ModelConfig
from mypt_dist.optim import OptimizerConfig
from mypt_dist.run.checkpointing import TOKENIZER_FILE
from mypt_dist.run.provenance import code_version
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.world import JSON, Solo

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Origin(Config):
    """Where an adopted checkpoint came from: ``origin`` of its manifest."""

    program: str
    """Who wrote it, as ``mypt`` or ``huggingface``."""
    generation: str
    """Which of that program's formats it was, or which architecture."""
    path: str
    """Where it lay. Of no consequence: the same files elsewhere are the same origin."""
    files: dict[str, Sha256]
    """Every file that decided the content, by its name there."""
    taken: tuple[str, ...] = ("weights",)
    """``weights``, ``optimizer``."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer that was chosen for it, where there is a choice."""
    dtypes: dict[str, int] = {}
    """Tensors of the source by their element type."""
    settings: dict[str, JsonValue] = {}
    """What the source says of the model and of its training, in its own words."""
    notes: tuple[str, ...] = ()
    """What a reader of numbers must know: what was rounded, left out or chosen."""

    def same(self, other: "Origin") -> bool:
        """Whether both mean the same content."""
        facts = ("program", "generation", "files", "taken", "tokenizer")
        return all(getattr(self, fact) == getattr(other, fact) for fact in facts)


@dataclass(frozen=True, slots=True)
class Adopted:
    """A model of another program, in our names, not yet read."""

    model: ModelConfig
    tokenizer: Tokenizer
    tensors: Sequence[Segment]
    """``model/NAME`` of every parameter as the model itself names it, a tied one once under its first name; and
    ``optimizer/STATE/NAME`` of all parameters or of none, in fp32, as `Trainable.local_state` names them. Weights keep
    the element type they were stored in. ``data`` of each is called once, one after the other."""
    origin: Origin
    step: int = 0
    """Optimizer updates that it has behind it."""
    tokens: int = 0
    """Tokens it was trained on, 0 where nobody knows."""
    seed: int = 0
    optimizer: OptimizerConfig | None = None
    """With which it was trained, if that is known."""
    train: Mapping[str, JSON] = field(default_factory=dict)
    """Keys of the ``train`` section that are known."""
    confirm: Callable[[], None] = lambda: None
    """Called once all tensors are written and before anything is visible: raises where the source has changed."""


def adopted_before(out: Path, origin: Origin) -> Path | None:
    """The checkpoint in the run folder ``out`` if it is that of ``origin``, every byte verified; None if it is free.

    What an adoption that was killed has left does not count. Raises `ConfigError` where something else is there, and
    `CheckpointError` where the checkpoint is damaged.
    """
    if not out.exists():
        return None
    root = out / CHECKPOINTS
    others = [] if not out.is_dir() else [path for path in out.iterdir() if path.name not in (CHECKPOINTS, LOCK)]
    inside = list(root.iterdir()) if root.is_dir() else []
    named = {path: parse_step(path) for path in inside if not is_trash(path.name)}
    whole = [path for path, step in named.items() if step and step.kind != "partial"]
    others += [path for path, step in named.items() if step is None]
    if not out.is_dir() or others or len(whole) > 1:
        there = f"holds {min(others or whole).relative_to(out)}" if out.is_dir() else "is a file"
        raise ConfigError(f"{out} {there}: give a folder that does not exist yet")
    if not whole:
        return None
    with open_checkpoint(whole[0]) as checkpoint:
        found = _origin_of(checkpoint.manifest)
    if found is None or not found.same(origin):
        raise ConfigError(
            f"{out} holds {f'the conversion of {found.path}' if found else 'another checkpoint'}, whose content is not "
            f"that of {origin.path}: give another folder, or remove that one"
        )
    return whole[0]


def write_adopted(adopted: Adopted, out: Path, progress: Progress | None = None) -> Path:
    """Write the run folder ``out`` with one checkpoint, and return that checkpoint's folder.

    One tensor is in memory at a time. ``out`` holds the whole checkpoint in the end or is as it was; where it holds the
    very same one already, nothing is done. Raises what `adopted_before` raises; `CheckpointError` for tensors that are
    not those of the model; what reading a tensor raises; `SaveError` where the disk refuses; `LockError` where another
    process writes there.
    """
    check_fits(adopted.model, adopted.optimizer, adopted.tensors)
    if there := adopted_before(out, adopted.origin):
        log.info("%s is there already, whole and of the same origin: nothing is done", there)
        return there
    reading = _Reading(BytesDone(sum(tensor.bytes for tensor in adopted.tensors), progress))
    new = _missing(out)
    try:
        with RunLock(out) as lock:
            store = CheckpointStore(
                out / CHECKPOINTS, Solo(), may_commit=lock.still_mine, disk=replace(Disk(), threads=1)
            )
            return store.save(
                adopted.step,
                [reading.watched(tensor) for tensor in adopted.tensors],
                rank_state={},
                files={TOKENIZER_FILE: json.dumps(adopted.tokenizer.state(), indent=1).encode()},
                describe=reading.kept(lambda files, tensors: _manifest(adopted, files, tensors, lock.token)),
            )
    except SaveError as error:
        # The disk is not to blame for what was read.
        raise (reading.failure or error) from None
    finally:
        _remove_empty(new)


def _manifest(
    adopted: Adopted, files: Mapping[str, FileEntry], tensors: Mapping[str, TensorEntry], token: str
) -> Manifest:
    adopted.confirm()
    run: dict[str, JsonValue] = {"model": adopted.model.model_dump(mode="json")}
    if adopted.optimizer is not None:
        run["optimizer"] = adopted.optimizer.model_dump(mode="json")
    if adopted.train:
        run["train"] = dict(adopted.train)
    return Manifest(
        step=adopted.step,
        tokens=adopted.tokens,
        samples=0,
        order_hash=GENESIS,
        data={"tokenizer": adopted.tokenizer.fingerprint, "sources": {}},
        seed=adopted.seed,
        world_size=1,
        engine={"name": f"adopted from {adopted.origin.program}"},
        run=run,
        origin=adopted.origin.model_dump(mode="json"),
        code=code_version(),
        lock_token=token,
        files=dict(files),
        tensors=dict(tensors),
    )


def _origin_of(manifest: Manifest) -> Origin | None:
    """None for a checkpoint that was not adopted."""
    try:
        return Origin.model_validate(manifest.origin)
    except ValidationError:
        return None


class _Reading:
    """Tells how far reading has come, and keeps what the source did wrong: saving tells it as text alone."""

    def __init__(self, done: BytesDone) -> None:
        self._done = done
        self.failure: MyptError | None = None

    def watched(self, tensor: Segment) -> Segment:
        """The same, read under these eyes."""

        def data() -> memoryview:
            content = memoryview(self.kept(tensor.data)())
            self._done.add(content.nbytes)
            return content

        return replace(tensor, data=data)

    def kept(self, action: Callable[P, T]) -> Callable[P, T]:
        """The same, and its `MyptError` is remembered."""

        def acting(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return action(*args, **kwargs)
            except MyptError as error:
                self.failure = error
                raise

        return acting


def _missing(out: Path) -> list[Path]:
    """Folders that will be made for ``out``, the innermost first."""
    folders = [out / CHECKPOINTS, out, *out.absolute().parents]
    return [folder for folder in folders if not folder.exists()]


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            # It holds something: what was written, or what somebody else put there.
            return
