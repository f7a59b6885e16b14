"""A model that transformers saved, as a checkpoint of ours. Reads safetensors and JSON alone, from a local folder."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mypt_dist.checkpoint import ITEM_BYTES, Dtype, Segment
from mypt_dist.config import read_json
from mypt_dist.data.foreign.tokenizer import named_tokenizer
from mypt_dist.data.scan import sha256_of
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.interchange.adopted import Adopted, Origin
from mypt_dist.interchange.fitting import expected
from mypt_dist.interchange.hf.config_in import model_of
from mypt_dist.interchange.hf.elements import TORCH
from mypt_dist.interchange.hf.forms import Form, Match, form_of
from mypt_dist.interchange.hf.tokenizer_in import TOKENIZER_FILES, tokenizer_in
from mypt_dist.interchange.hf.weights_in import ForeignTensor, foreign_tensors, weight_files
from mypt_dist.models import ModelConfig
from mypt_dist.tokenizers import Tokenizer

CONFIG = "config.json"
PREFIXES = ("transformer.", "model.")
"""What names lack where the base model alone was saved, as that of GPT-2 itself."""
HEAD = "lm_head.weight"
SHOWN = 5
"""Names in a message."""


def adopt_hf(path: Path, tokenizer: str | None = None) -> Adopted:
    """The model in a local folder, or of one safetensors file with ``config.json`` beside it; no weight is read yet.

    ``tokenizer`` names one of ours where the folder has none that can be used, as ``mypt data convert`` takes it.
    Raises `ConfigError` for what cannot be a model here, `CheckpointError` for damaged or incomplete files.
    """
    files = weight_files(path)
    folder = path if path.is_dir() else path.parent
    entries = read_json(folder / CONFIG)
    if not isinstance(entries, dict):
        raise ConfigError(f"{folder / CONFIG} must hold an object, got {type(entries).__name__}")
    model = model_of(entries, folder / CONFIG)
    form, tensors = form_of(model), foreign_tensors(files)
    chosen, notes = _tokenizer(folder, entries, tokenizer)
    if chosen.vocab_size > model.rows:
        raise ConfigError(
            f"{folder}: the tokenizer has {chosen.vocab_size:,} ids, and the embedding {model.rows:,} rows: "
            "they are not of one model"
        )
    decided = [folder / CONFIG, *files, *(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())]
    origin = Origin(
        program="huggingface",
        generation=form.architecture,
        path=str(path),
        files={file.name: sha256_of(file) for file in decided},
        dtypes=dict(Counter(tensor.dtype for tensor in tensors.values())),
        settings=entries,
        notes=notes,
    )
    return Adopted(model, chosen, _segments(model, form, tensors), origin)


def _tokenizer(folder: Path, entries: Mapping[str, Any], named: str | None) -> tuple[Tokenizer, tuple[str, ...]]:
    if named is None:
        return tokenizer_in(folder, entries)
    return named_tokenizer(named).tokenizer, (f"the tokenizer {named} was named by whoever imported the model",)


def _segments(model: ModelConfig, form: Form, tensors: Mapping[str, ForeignTensor]) -> list[Segment]:
    """Every parameter of ours, made of one tensor of theirs or of several, when it is written."""
    found = _matched(form, tensors)
    segments = []
    for name, shape in expected(model).items():
        parts = [(match, found[match.theirs]) for match in form.matches if f"model/{match.ours}" == name]
        parts.sort(key=lambda part: part[0].first_row)
        dtypes = {tensor.dtype for _, tensor in parts}
        if len(dtypes) != 1:
            raise CheckpointError(f"{[tensor.name for _, tensor in parts]} are of several types: {sorted(dtypes)}")
        dtype: Dtype = dtypes.pop()  # type: ignore[assignment]  # one of those that weights_in allows
        length = sum(tensor.bytes for _, tensor in parts) // ITEM_BYTES[dtype]
        segments.append(Segment(name, shape, dtype, 0, length, partial(_joined, parts)))
    return segments


def _matched(form: Form, tensors: Mapping[str, ForeignTensor]) -> dict[str, ForeignTensor]:
    """Their tensors by the names of the form. Raises one `CheckpointError` with all that is missing or too much."""
    found, used = {}, set()
    for match in form.matches:
        for name in (match.theirs, *(match.theirs.removeprefix(prefix) for prefix in PREFIXES)):
            if name in tensors:
                found[match.theirs] = tensors[name]
                used.add(name)
                break
    rest = set(tensors) - used
    if HEAD in rest and HEAD not in {match.theirs for match in form.matches}:
        rest.remove(HEAD)
        _check_tied(tensors[HEAD], found.get(form.matches[0].theirs))
    shapes = [
        f"{tensor.name} {list(tensor.shape)}, must be {list(match.shape)}"
        for match in form.matches
        if (tensor := found.get(match.theirs)) and tensor.shape != match.shape
    ]
    missing = [match.theirs for match in form.matches if match.theirs not in found]
    problems = [
        f"  {what}: {', '.join(sorted(names)[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
        for what, names in (("missing", missing), ("not part of it", sorted(rest)), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(
            "\n".join([f"the tensors are not those of the {form.architecture} described:", *problems])
        )
    return found


def _check_tied(head: ForeignTensor, embedding: ForeignTensor | None) -> None:
    """A head beside an embedding that it is said to be tied to must be the same."""
    if embedding and (head.dtype, head.shape, head.read()) == (embedding.dtype, embedding.shape, embedding.read()):
        return
    raise CheckpointError(
        f"{head.file}: {HEAD} differs from the embedding, and tie_word_embeddings of {CONFIG} says that they are one: "
        "set it to false if the head is a weight of its own"
    )


def _joined(parts: Sequence[tuple[Match, ForeignTensor]]) -> memoryview:
    """The bytes of our tensor. Raises OSError."""
    if len(parts) == 1:
        match, tensor = parts[0]
        return _turned(tensor) if match.transposed else memoryview(tensor.read())
    return memoryview(b"".join(tensor.read() for _, tensor in parts))


def _turned(tensor: ForeignTensor) -> memoryview:
    numbers = torch.frombuffer(tensor.read(), dtype=TORCH[tensor.dtype]).view(tensor.shape)
    return memoryview(numbers.t().contiguous().view(torch.uint8).numpy().data)
