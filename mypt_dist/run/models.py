"""Trained models by the folder they live in: for generation, for notebooks, for other programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mypt_dist.checkpoint import Checkpoint, list_checkpoints, open_checkpoint
from mypt_dist.config import load_mapping, validate
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.run.checkpointing import TOKENIZER_FILE, reader
from mypt_dist.run.config import AnyModel, ModelFile
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


def load_for_generation(path: str | Path) -> tuple[CausalLM, Tokenizer]:
    """The model of `load_model`, and the tokenizer it was trained with."""
    with open_checkpoint(Path(path)) as checkpoint:
        return _build(checkpoint), _tokenizer(checkpoint)


def get_model_info(path: str | Path) -> dict[str, Any]:
    """What a checkpoint's manifest says of its model: architecture, parameters, step, tokens, metrics, data.

    Reads no tensor. Raises `CheckpointError`, `ConfigError` where there is none.
    """
    with open_checkpoint(Path(path)) as checkpoint:
        manifest, folder = checkpoint.manifest, checkpoint.folder
    parameters = sum(tensor.elements for name, tensor in manifest.tensors.items() if name.startswith("model/"))
    return {
        "path": str(folder),
        "model": manifest.run["model"],
        "parameters": parameters,
        "step": manifest.step,
        "tokens": manifest.tokens,
        "metrics": manifest.metrics,
        "data": manifest.data,
        "code": manifest.code,
    }


def list_models(folder: str | Path = "runs") -> list[dict[str, Any]]:
    """A line for every run below ``folder`` that has a checkpoint: name, path, newest step, tokens, metrics."""
    runs = sorted(path.parent for path in Path(folder).glob("**/checkpoints") if path.is_dir())
    lines = []
    for run in runs:
        sound = [summary for summary in list_checkpoints(run) if summary.problem is None]
        if sound:
            newest = sound[-1]
            line = {"name": run.name, "path": str(run), "step": newest.step, "tokens": newest.tokens}
            lines.append({**line, "metrics": newest.metrics})
    return lines


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    try:
        return load_tokenizer(checkpoint.read_object(TOKENIZER_FILE))
    except ConfigError as error:
        raise CheckpointError(f"the tokenizer of {checkpoint.folder} cannot be used: {error}") from None


_MODEL: TypeAdapter[ModelConfig] = TypeAdapter(AnyModel)


def _build(checkpoint: Checkpoint) -> CausalLM:
    import torch  # noqa: PLC0415 - listing models needs none

    try:
        config = _MODEL.validate_python(checkpoint.manifest.run["model"])
    except (ValidationError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.folder} is of a model that this version does not know: {error}") from None
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
