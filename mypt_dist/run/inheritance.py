"""What a run takes over from the checkpoint that it starts from, and what its own file says. Needs no torch."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mypt_dist.checkpoint import Manifest, newest_manifest
from mypt_dist.config import Config, SafePath, inside, validate
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.models import MODELS, ModelConfig

TAKEN = ("dropout", "activation_checkpointing")
"""Keys of ``model`` that are the run file's alone, its defaults included: they belong to training, not to weights."""


class StartFrom(Config):
    """A trained model to begin with, at step 0 and with an order of the data and a schedule of the run's own."""

    path: SafePath
    """A checkpoint, or the folder of a run: its newest healthy one. Not needed any more once the run has saved."""
    optimizer: Literal["fresh", "kept"] = "fresh"
    """``kept``: with the optimizer's moments. The optimizer must be of the same type."""


class _StartFile(Config):
    start_from: StartFrom


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table of inheritance."""

    key: str
    there: Any
    here: Any
    rule: Literal["inherited", "from the run file", "changed"]


def with_inheritance(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A run file with its model section completed from the checkpoint in its ``start_from``, if it has one.

    A run that has saved before inherits from its own newest checkpoint; what it was started from may be gone.
    Raises `ConfigError` for a model that does not agree, and where there is nothing to start from.
    """
    given = mapping.get("model", {})
    if mapping.get("start_from") is None or not isinstance(given, Mapping):
        return dict(mapping)
    start = validate(_StartFile, {"start_from": mapping["start_from"]}, where).start_from
    own = own_checkpoint(_folder(mapping))
    if own is not None:
        return {**mapping, "model": _resumed(given, own.run["model"])}
    folder, manifest = source_of(start)
    return {**mapping, "model": _started(given, model_of(manifest, folder), f"{where}: start_from {folder}")}


def own_checkpoint(folder: Path) -> Manifest | None:
    """The manifest of the newest checkpoint of the run in ``folder``, if it has one."""
    with suppress(CheckpointError):
        return newest_manifest(folder)[1]
    return None


def source_of(start: StartFrom) -> tuple[Path, Manifest]:
    """Folder and manifest of the checkpoint to start from. Hashes no tensors.

    Raises `ConfigError` where there is none and `CheckpointError` for a corrupt one.
    """
    path = start.path
    if not path.is_dir():
        raise ConfigError(f"start_from.path: there is no folder {path}")
    if not (path / "manifest.json").exists() and (path / "config.json").exists():
        raise ConfigError(
            f"start_from.path: {path} is a model of another program: make a checkpoint of it first, with "
            "mypt ckpt convert (MyPT, nanoGPT) or mypt ckpt import hf"
        )
    try:
        return newest_manifest(path, healthy=True)
    except CheckpointError as error:
        if str(error).startswith("no "):
            raise ConfigError(f"start_from.path: {error}") from None
        raise


def model_of(manifest: Manifest, folder: Path) -> ModelConfig:
    """The architecture of a checkpoint. Raises `CheckpointError` for one that this version does not know."""
    try:
        section: Any = manifest.run["model"]
        return MODELS[section["type"]].model_validate(section)
    except (ValidationError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder} is of a model that this version does not know: {error}") from None


def inheritance(source: ModelConfig, model: ModelConfig) -> list[Row]:
    """What became of every setting of ``source`` in the ``model`` that starts from it."""
    there, here = source.model_dump(mode="json"), model.model_dump(mode="json")
    return [Row(f"model.{key}", there[key], value, _rule(key, there[key] == value)) for key, value in here.items()]


def _rule(key: str, same: bool) -> Literal["inherited", "from the run file", "changed"]:
    if key in TAKEN:
        return "from the run file"
    return "inherited" if same else "changed"


def _started(given: Mapping[str, Any], source: ModelConfig, where: str) -> dict[str, Any]:
    """The model section of a run that begins with ``source``. What is null or left out is as it is there."""
    said = {key: value for key, value in given.items() if value is not None}
    sizes = source.settled().model_dump()
    context = said.get("context", source.context)
    stretched = _stretched(source, context, where)
    if stretched.context > source.context:
        may_differ = {*TAKEN, "context", *source.POSITION_KEYS}
        chosen = any(said.get(key, sizes[key]) != sizes[key] for key in source.POSITION_KEYS)
        # Who says how positions are stretched says all of it.
        stretched = source.model_copy(update={"context": context}) if chosen else stretched
    else:
        may_differ = {*TAKEN, "context"}
    differing = {
        key: (sizes[key], value)
        for key, value in said.items()
        if key in sizes and key not in may_differ and value != sizes[key]
    }
    if differing:
        raise ConfigError(_refusal(where, differing, source))
    kept = {key: value for key, value in stretched.model_dump().items() if key not in TAKEN}
    return {**kept, **said}


def _stretched(source: ModelConfig, context: Any, where: str) -> ModelConfig:
    if not isinstance(context, int) or context < 1:
        # The schema says what is wrong with it.
        return source
    try:
        return source.with_context(context)
    except ValueError as error:
        raise ConfigError(f"{where}: model.{error}") from None


def _resumed(given: Mapping[str, Any], own: Any) -> dict[str, Any]:
    """The model section of a run that has saved: as its checkpoint's, so that what differs is told as any change."""
    said = {key: value for key, value in given.items() if value is not None}
    if said.get("type", own["type"]) != own["type"]:
        return dict(given)
    rows = said.get("vocab_size")
    if isinstance(rows, int) and rows < own["vocab_size"]:
        # It has grown with the tokenizer.
        del said["vocab_size"]
    return {**{key: value for key, value in own.items() if key not in TAKEN}, **said}


def _refusal(where: str, differing: Mapping[str, tuple[Any, Any]], source: ModelConfig) -> str:
    free = ", ".join((*TAKEN, "context"))
    longer = f"; a longer context also {', '.join(source.POSITION_KEYS)}" if source.POSITION_KEYS else ""
    return "\n".join(
        [
            f"{where} is another model than the run file's:",
            *(f"  model.{key}: {there!r} there, {here!r} here" for key, (there, here) in differing.items()),
            f"leave them out, and they are inherited; only these may differ: {free}{longer}",
        ]
    )


def _folder(mapping: Mapping[str, Any]) -> Path:
    """The folder of a run whose file is not checked yet; what is no path leads nowhere."""
    out, name = mapping.get("out"), mapping.get("name", "run")
    if isinstance(out, str):
        return Path(out)
    with suppress(ConfigError, TypeError):
        return inside(Path("runs"), name)
    return Path("runs")
