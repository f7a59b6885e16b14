"""A checkpoint of ours as a folder that ``transformers`` loads. Needs neither transformers nor an accelerator."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypt_dist.checkpoint import Checkpoint, FileEntry, open_checkpoint
from mypt_dist.checkpoint.writing import FileJob, small_job
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.errors import ConfigError
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.interchange.hf.card import CardFacts, model_card
from mypt_dist.interchange.hf.curves import loss_curves
from mypt_dist.interchange.hf.elements import CHOSEN, DtypeChoice, Elements, is_zero
from mypt_dist.interchange.hf.forms import Form, form_of
from mypt_dist.interchange.hf.shards import INDEX, index_of, plan_shards
from mypt_dist.interchange.hf.tokenizer_files import tokenizer_files
from mypt_dist.interchange.whole_folder import require_free, write_folder
from mypt_dist.run.models import model_config, tokenizer_of
from mypt_dist.run.provenance import code_version
from mypt_dist.run.templates import template_of
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.tracking.journal import METRICS, read_metrics

RECORD = "mypt_export.json"
"""What was exported, and the sha256 of every other file."""
CARD, CURVES = "README.md", "curves.svg"
SPELLED = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""safetensors' name -> transformers'."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a user may choose."""

    dtype: DtypeChoice = "keep"
    """Of the weights. All but ``keep`` and a wider one round them."""
    shard_bytes: int = 5 * 10**9
    """Of a safetensors file, at most."""
    name: str | None = None
    """Title of the card. None: the run's name."""
    license: str | None = None
    """As the card says it, in the words of Hugging Face: ``mit``, ``apache-2.0``."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    architecture: str
    parameters: int
    dtype: str
    is_rounded: bool
    has_tokenizer: bool
    step: int
    source: Path
    """The checkpoint."""
    manifest_sha256: str
    files: dict[str, FileEntry]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "folder": str(self.folder),
            "source": str(self.source),
            "step": self.step,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "dtype": self.dtype,
            "rounded": self.is_rounded,
            "tokenizer": self.has_tokenizer,
            "files": {name: entry.model_dump(mode="json") for name, entry in sorted(self.files.items())},
        }


def export_hf(path: Path, out: Path, options: ExportOptions, progress: Progress | None = None) -> Exported:
    """Write the model of a checkpoint, or of a run's newest valid one, into the folder ``out``, which is new or empty.

    Raises `ConfigError` where no class of transformers fits or ``out`` is taken, `CheckpointError`, `SaveError`.
    """
    require_free(out)
    with open_checkpoint(path) as checkpoint:
        return _Export(checkpoint, out, options, progress).write()


class _Export:
    def __init__(self, checkpoint: Checkpoint, out: Path, options: ExportOptions, progress: Progress | None) -> None:
        self.checkpoint, self.out, self.options = checkpoint, out, options
        self.manifest = checkpoint.manifest
        self.tokenizer = tokenizer_of(checkpoint)
        self.model = model_config(checkpoint)
        self.form = fitting_form(checkpoint)
        self.tensors = _elements(checkpoint, self.form, options.dtype)
        self.dtype = SPELLED[_widest(self.tensors)]
        ours = {match.ours for match in self.form.matches if match.ours is not None}
        self.parameters = sum(checkpoint.tensor(f"model/{name}").elements for name in ours)
        self.is_rounded = any(tensor.is_rounded for tensor in self.tensors)
        self.done = BytesDone(sum(tensor.bytes for tensor in self.tensors), progress)

    def write(self) -> Exported:
        shards = plan_shards(self.tensors, self.options.shard_bytes)
        small = self._small_files()
        if (index := index_of(shards)) is not None:
            small[INDEX] = index
        jobs = [*(small_job(name, content) for name, content in small.items()), *(s.job(self.done.add) for s in shards)]
        files = write_folder(self.out, jobs, self._record)
        return Exported(
            folder=self.out,
            architecture=self.form.architecture,
            parameters=self.parameters,
            dtype=self.dtype,
            is_rounded=self.is_rounded,
            has_tokenizer="tokenizer.json" in files,
            step=self.manifest.step,
            source=self.checkpoint.folder,
            manifest_sha256=self.manifest.sha256,
            files=files,
        )

    def _small_files(self) -> dict[str, bytes]:
        template = template_of(self.manifest)
        files = tokenizer_files(self.tokenizer, self.model.context, template)
        files["config.json"] = _text(hf_config(self.form, self.tokenizer, self.dtype))
        files["generation_config.json"] = _text(_generation_config(self.tokenizer, template.stop))
        if (curves := loss_curves(_journal(self.checkpoint))) is not None:
            files[CURVES] = curves.encode()
        files[CARD] = model_card(
            CardFacts(
                name=self.options.name or str(self.manifest.run.get("name") or "model"),
                manifest=self.manifest,
                form=self.form,
                tokenizer=self.tokenizer,
                dtype=self.dtype,
                parameters=self.parameters,
                files=frozenset(files),
                is_rounded=self.is_rounded,
                license=self.options.license,
            )
        ).encode()
        return files

    def _record(self, written: Mapping[str, FileEntry]) -> FileJob:
        content = {
            "format": 1,
            "checkpoint": {
                "step": self.manifest.step,
                "tokens": self.manifest.tokens,
                "manifest_sha256": self.manifest.sha256,
            },
            "architecture": self.form.architecture,
            "dtype": self.dtype,
            "rounded": self.is_rounded,
            "code": code_version(),
            "files": {name: entry.model_dump(mode="json") for name, entry in sorted(written.items())},
        }
        return small_job(RECORD, _text(content))


def fitting_form(checkpoint: Checkpoint) -> Form:
    """The class of transformers that computes what the model of a checkpoint computes. Raises `ConfigError`."""
    form = form_of(model_config(checkpoint))
    held = [name for name in form.must_be_zero if not is_zero(checkpoint, name)]
    if held:
        raise ConfigError(
            f"{checkpoint.folder}: {form.architecture} has no {', '.join(held)}, and that of this model is not zero, "
            "so that no class of transformers computes the same; what is to be exported is trained with bias_head=false"
        )
    return form


def hf_config(form: Form, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Content of ``config.json``."""
    return {
        "architectures": [form.architecture],
        **form.config,
        "initializer_range": 0.02,
        "bos_token_id": tokenizer.eot_id,
        "eos_token_id": tokenizer.eot_id,
        "dtype": dtype,
        # What version 4 of transformers calls it.
        "torch_dtype": dtype,
        "use_cache": True,
    }


def _generation_config(tokenizer: Tokenizer, stop: str) -> dict[str, Any]:
    """The defaults of ``mypt generate``; a text ends where a document does, or an answer, with the token ``stop``."""
    sampling, turn = SamplingConfig(), tokenizer.specials.get(stop)
    return {
        "bos_token_id": tokenizer.eot_id,
        "eos_token_id": [tokenizer.eot_id, turn] if turn is not None else tokenizer.eot_id,
        "pad_token_id": tokenizer.eot_id,
        "do_sample": True,
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.penalty,
    }


def _elements(checkpoint: Checkpoint, form: Form, choice: DtypeChoice) -> list[Elements]:
    held = [checkpoint.tensor(f"model/{match.ours}").dtype for match in form.matches if match.ours is not None]
    return [
        Elements(
            checkpoint,
            match,
            CHOSEN.get(choice)
            or (checkpoint.tensor(f"model/{match.ours}").dtype if match.ours is not None else held[0]),
        )
        for match in form.matches
    ]


def _widest(tensors: list[Elements]) -> str:
    found = {tensor.dtype for tensor in tensors}
    return next((name for name in SPELLED if name in found), "F32")


def _journal(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What the run logged up to this checkpoint, where its folder is still around it."""
    run = checkpoint.folder.parent.parent
    if not (run / METRICS).is_file():
        return []
    return [row for row in read_metrics(run) if row["step"] <= checkpoint.manifest.step]


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
