"""Trained models by the folder they live in: for generation, for notebooks, for other programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mypt_dist.chat import AnyTemplate
from mypt_dist.checkpoint import Checkpoint, list_checkpoints, open_checkpoint
from mypt_dist.config import load_mapping, validate
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.run.checkpointing import TOKENIZER_FILE, reader
from mypt_dist.run.config import AnyModel, ModelFile
from mypt_dist.run.folders import evaluations_of, run_folders, state_of, tags_of
from mypt_dist.run.templates import template_of
from mypt_dist.tokenizers import Tokenizer, load_tokenizer


def create_model(preset: str | Mapping[str, Any], **overrides: Any) -> CausalLM:
    """A freshly initialised model from a preset's name, a run file, or the mapping of a ``model`` section.

    ``overrides`` are keys of the ``model`` section. A preset that leaves the vocabulary open needs ``vocab_size``.
    Raises `ConfigError`.
    """
    section = load_mapping(preset).get("model", {}) if isinstance(preset, str) else dict(preset)
    where = preset if isinstance(preset, str) else "the model"
    config = validate(ModelFile, {"model": {**section, **overrides}}, where).model
    if config.vocab_size is None:
        raise ConfigError(f"{where} follows its tokenizer's vocabulary: give vocab_size")
    return config.build()


def load_model(path: str | Path) -> CausalLM:
    """The model of a checkpoint, or of a run's newest valid one, on the CPU in evaluation mode.

    It maps (B, T) int64 ids to (B, T, V) logits. Every byte is verified before it is used.
    Raises `CheckpointError`, `ConfigError` where there is none.
    """
    with open_checkpoint(Path(path)) as checkpoint:
        return _build(checkpoint)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model of a checkpoint, and what of the checkpoint matters to who uses it."""

    model: CausalLM
    tokenizer: Tokenizer
    template: AnyTemplate
    """The layout of conversations that it learned."""
    folder: Path
    """Of the checkpoint."""
    step: int
    run: Mapping[str, Any]
    """The resolved run file."""
    sha256: str
    """Of the manifest."""


def loaded(path: str | Path) -> Loaded:
    """As `load_model`, with everything around it."""
    with open_checkpoint(Path(path)) as checkpoint:
        manifest = checkpoint.manifest
        return Loaded(
            _build(checkpoint),
            tokenizer_of(checkpoint),
            template_of(manifest),
            checkpoint.folder,
            manifest.step,
            manifest.run,
            manifest.sha256,
        )


def load_for_generation(path: str | Path) -> tuple[CausalLM, Tokenizer]:
    """The model of `load_model`, and the tokenizer it was trained with."""
    with open_checkpoint(Path(path)) as checkpoint:
        return _build(checkpoint), tokenizer_of(checkpoint)


def get_model_info(path: str | Path) -> dict[str, Any]:
    """What is known of a checkpoint's model, or of a run's newest: architecture, parameters, step, tokens, metrics,
    data, and of the run its state, tags and evaluations.

    Reads every byte, to verify it, and no tensor. Raises `CheckpointError`, `ConfigError` where there is none.
    """
    with open_checkpoint(Path(path)) as checkpoint:
        manifest, folder = checkpoint.manifest, checkpoint.folder
    run = folder.parent.parent
    return {
        "path": str(folder),
        "model": manifest.run["model"],
        "parameters": manifest.parameters,
        "step": manifest.step,
        "tokens": manifest.tokens,
        "metrics": manifest.metrics,
        "data": manifest.data,
        "origin": manifest.origin,
        "code": manifest.code,
        "state": state_of(run),
        "tags": tags_of(run),
        "evaluations": evaluations_of(run),
    }


def list_models(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """A line for every run below ``folder`` that has a checkpoint: name, path, parameters, newest step, tokens,
    metrics, bytes of all its checkpoints, state, tags.

    Reads manifests alone. Raises `ConfigError` where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise ConfigError(f"{folder} is no folder: runs are in runs/, unless their files say otherwise")
    lines = []
    for run in run_folders(Path(folder)):
        line = _line(run)
        if line is not None:
            lines.append(line)
    return lines


def _line(run: Path) -> dict[str, Any] | None:
    try:
        summaries = list_checkpoints(run)
    except CheckpointError:
        # One that is about to write its first.
        return None
    sound = [summary for summary in summaries if summary.problem is None]
    if not sound:
        return None
    newest = sound[-1]
    return {
        "name": run.resolve().name,
        "path": str(run),
        "parameters": newest.parameters,
        "step": newest.step,
        "tokens": newest.tokens,
        "metrics": newest.metrics,
        "bytes": sum(summary.bytes for summary in summaries),
        "state": state_of(run),
        "tags": tags_of(run),
    }


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that the model of a checkpoint was trained with. Raises `CheckpointError`."""
    try:
        return load_tokenizer(checkpoint.read_object(TOKENIZER_FILE))
    except ConfigError as error:
        raise CheckpointError(f"the tokenizer of {checkpoint.folder} cannot be used: {error}") from None


def model_config(checkpoint: Checkpoint) -> ModelConfig:
    """The model of a checkpoint, its vocabulary settled. Raises `CheckpointError`."""
    try:
        return _MODEL.validate_python(checkpoint.manifest.run["model"])
    except (ValidationError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.folder} is of a model that this version does not know: {error}") from None


_MODEL: TypeAdapter[ModelConfig] = TypeAdapter(AnyModel)


def _build(checkpoint: Checkpoint) -> CausalLM:
    import torch  # noqa: PLC0415 - listing models needs none

    config = model_config(checkpoint)
    with torch.device("meta"):
        model = config.build()
    # Without initialising weights that are overwritten at once: loading must not draw from anybody's generator.
    model.to_empty(device="cpu")
    model.tie_weights()
    read = reader(checkpoint)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            read(f"model/{name}", tuple(parameter.shape), 0, parameter.view(-1))
    return model.eval()
