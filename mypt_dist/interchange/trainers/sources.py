"""Where is a checkpoint of another trainer, which files are it, and what do they hold?"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from mypt_dist.config import read_json
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.interchange.torch_files.reading import Opaque, Outline, Tree, read_torch_files
from mypt_dist.interchange.torch_files.stored import StoredTensor
from mypt_dist.interchange.trainers.layouts import COMPILED
from mypt_dist.tokenizers.base import well_formed

MODEL, CONFIG, TOKENIZER, STATE, OPTIMIZER = (
    *("model.pt", "config.json", "tokenizer.json"),
    *("training_state.json", "optimizer.pt"),
)
SINGLE = ("latest.pt", "final.pt", "ckpt.pt")
"""Single files, as MyPT and nanoGPT call them."""
LONGEST = 1000
"""Characters of a text that is kept."""
KNOWN = f"a folder with {MODEL} and {CONFIG}, or with one of {', '.join(SINGLE)}, or such a file"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was found, not yet read."""

    name: str
    """What people call it."""
    path: Path
    """Its folder, or its one file."""
    pickles: tuple[Path, ...]
    """The model's file first."""
    descriptions: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that decides its content."""
        return (*self.pickles, *self.descriptions)


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a checkpoint holds. Tensors can be read while its files are open."""

    program: str
    format: str
    weights: Mapping[str, StoredTensor]
    settings: Mapping[str, Any]
    """Of the model."""
    training: Mapping[str, Any]
    tokenizer: Mapping[str, Any] | None
    optimizer: object | None
    step: int


def find(path: Path, checkpoint: str | None = None) -> Source:
    """The checkpoint at ``path``; ``checkpoint`` names one file of several. Raises `ConfigError` for none."""
    if checkpoint is not None:
        path = path / checkpoint
    if path.is_file():
        return Source(path.parent.name or path.stem, path, (path,))
    if not path.is_dir():
        raise ConfigError(f"there is no {path}")
    if (path / MODEL).is_file():
        return _bundle(path)
    single = [path / name for name in SINGLE if (path / name).is_file()]
    match single:
        case [one]:
            return Source(path.name, one, (one,))
        case []:
            raise ConfigError(f"{path} holds no checkpoint of MyPT or nanoGPT: that would be {KNOWN}")
    names = " and ".join(one.name for one in single)
    raise ConfigError(f"{path} holds {names}, which need not be the same: say which with --checkpoint")


def find_all(folder: Path) -> list[Path]:
    """Folders below ``folder``, one step, that look like checkpoints, by name. Raises `ConfigError` for none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder with checkpoints")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _looks_right(path))
    if not found:
        raise ConfigError(f"no folder in {folder} holds a checkpoint: that would be {KNOWN}")
    return found


@contextmanager
def opened(source: Source, outline: Outline | None = None) -> Iterator[Foreign]:
    """What ``source`` holds. Raises what `read_torch_files` raises, `ConfigError` for a description that is wrong."""
    described = {path.name: _object(path) for path in source.descriptions}
    with read_torch_files(source.pickles, outline) as trees:
        yield _from_bundle(source, trees, described) if described else _from_single(source, trees[0])


def plain(tree: Tree) -> JsonValue:
    """What stands beside the tensors, for a manifest: numbers as numbers, anything unknown by its name."""
    match tree:
        case dict():
            return {_text(str(key)): plain(value) for key, value in tree.items()}
        case list():
            return [plain(value) for value in tree]
        case StoredTensor():
            return _number(tree)
        case Opaque(what=text) | str(text):
            return _text(text)
    return tree


def _number(tensor: StoredTensor) -> float | str:
    if tensor.elements != 1 or tensor.dtype == "BF16":
        return f"tensor of {list(tensor.shape)}"
    number = tensor.number()
    return number if math.isfinite(number) else str(number)


def _text(text: str) -> str:
    """Without half characters, which no file can hold, and of a length that people read."""
    return well_formed(text[:LONGEST])


def _looks_right(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (MODEL, *SINGLE))


def _bundle(folder: Path) -> Source:
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} has {MODEL}, but no {CONFIG} that says of which model")
    descriptions = tuple(path for path in (folder / name for name in (CONFIG, TOKENIZER, STATE)) if path.is_file())
    named = _object(folder / STATE).get("optimizer_file") if folder / STATE in descriptions else None
    optimizer = folder / (_file_name(named, folder / STATE) if named is not None else OPTIMIZER)
    if named is not None and not optimizer.is_file():
        raise ConfigError(f"{optimizer} is missing, which {STATE} names as its optimizer's state")
    pickles = (folder / MODEL, *([optimizer] if optimizer.is_file() else []))
    return Source(folder.name, folder, pickles, descriptions)


def _file_name(name: object, where: Path) -> str:
    """A file beside ``where``, never one elsewhere."""
    if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
        raise ConfigError(f"{where}: optimizer_file must be the name of a file beside it, got {name!r}")
    return name


def _from_bundle(source: Source, trees: list[Tree], described: Mapping[str, Mapping[str, Any]]) -> Foreign:
    model = trees[0]
    wrapped = isinstance(model, dict) and isinstance(model.get("state_dict"), dict)
    state = described.get(STATE, {})
    return Foreign(
        program="mypt",
        format="bundle",
        weights=_tensors(model["state_dict"] if wrapped else model, source.pickles[0]),  # type: ignore[index, call-overload]
        settings=described[CONFIG],
        training=state,
        tokenizer=described.get(TOKENIZER),
        optimizer=trees[1] if len(trees) > 1 else None,
        step=_count(state.get("step"), source.path / STATE),
    )


def _from_single(source: Source, tree: Tree) -> Foreign:
    if isinstance(tree, dict) and {"model", "model_args"} <= tree.keys():
        weights, settings, optimizer = tree["model"], tree["model_args"], tree.get("optimizer")
        known = ("model", "model_args", "optimizer")
        program, form, step = "nanogpt", "ckpt.pt", tree.get("iter_num")
    elif isinstance(tree, dict) and {"model_state_dict", "config"} <= tree.keys():
        weights, settings, optimizer = tree["model_state_dict"], tree["config"], tree.get("optimizer_state_dict")
        known = ("model_state_dict", "config", "optimizer_state_dict")
        program, form, step = "mypt", "single file", tree.get("step")
    else:
        held = ", ".join(map(str, tree))[:200] if isinstance(tree, dict) else type(tree).__name__
        raise CheckpointError(f"{source.path} is no checkpoint of MyPT or nanoGPT: it holds {held}")
    tokenizer = tree.get("tokenizer") if program == "mypt" else None
    if not isinstance(settings, dict) or not isinstance(tokenizer, dict | None):
        raise CheckpointError(f"{source.path} does not say of which model and tokenizer it is")
    return Foreign(
        program=program,
        format=form,
        weights=_tensors(weights, source.path),
        settings=settings,
        training={key: value for key, value in tree.items() if key not in (*known, "tokenizer")},
        tokenizer=tokenizer,
        optimizer=optimizer,
        step=_count(step, source.path),
    )


def _tensors(tree: Tree, path: Path) -> dict[str, StoredTensor]:
    """Names without what torch.compile puts before them. Raises `CheckpointError` for what is not tensors alone."""
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path} holds no state dict")
    named = {str(name).removeprefix(COMPILED): value for name, value in tree.items()}
    found = {name: value for name, value in named.items() if isinstance(value, StoredTensor)}
    if len(found) < len(tree):
        odd = [name for name in named if name not in found] or ["a name that stands twice"]
        raise CheckpointError(f"{path}: not a tensor, or unlike any that a model has: {', '.join(odd[:5])}")
    return found


def _count(step: object, where: Path) -> int:
    """0 where nothing is said."""
    if step is None:
        return 0
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 10**15:
        raise CheckpointError(f"{where}: the step is {step!r}, must be a number of steps")
    return step


def _object(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold an object, got {type(content).__name__}")
    return content
