"""``mypt ckpt export``: a checkpoint as other programs read it."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json

if TYPE_CHECKING:
    from mypt_dist.interchange.hf.export import Exported
    from mypt_dist.tracking.mlflow_sender.model_record import ModelVersion


class Target(StrEnum):
    """What is written."""

    hf = "hf"


class DtypeName(StrEnum):
    """Element types of exported weights."""

    keep = "keep"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def export(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run's folder, or one checkpoint in it.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write, which is new or empty.")],
    to: Annotated[Target, typer.Option("--to", help="hf: a folder that transformers loads.")] = Target.hf,
    dtype: Annotated[
        DtypeName, typer.Option("--dtype", help="Of the weights: as they are, or rounded to fewer bits.")
    ] = DtypeName.keep,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Of a weights file, at most: 5GB, 500MB.")
    ] = "5GB",
    name: Annotated[
        str | None, typer.Option("--name", help="Title of the model card. Default: the run's name.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="What the card says: mit, apache-2.0, ...")
    ] = None,
    register: Annotated[
        str | None, typer.Option("--register", metavar="NAME", help="Log and register it in MLflow as NAME, too.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", metavar="URI", help="Default: where the run was shipped to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model and tokenizer of a checkpoint for other programs: weights, configuration, model card.

    Every byte is verified first. A model that no class of the other program computes exactly is refused.
    """
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.interchange.hf.export import ExportOptions, export_hf

    log.install()
    options = ExportOptions(dtype.value, _bytes(shard_size), name, licence)
    with byte_progress("exporting") as progress:
        done = export_hf(path, out, options, progress)
    version = _register(done, register, tracking_uri) if register else None
    if as_json:
        print_json({**done.to_json(), "registered": version.uri if version else None})
        return
    for file, entry in sorted(done.files.items()):
        print(f"{entry.sha256}  {file}")
    rounded = ", rounded" if done.is_rounded else ""
    of = f"{done.architecture}, {done.parameters:,} parameters ({done.dtype}{rounded})"
    print(f"{done.folder}: {of}, from {done.source}")
    if not done.has_tokenizer:
        print("its tokenizer has no exact equal in tokenizer.json: only our own description of it was written")
    if version is not None:
        print(f"registered in MLflow as {version.uri} (model {version.model_id})")


def _register(done: "Exported", name: str, uri: str | None) -> "ModelVersion":
    from mypt_dist.tracking.mlflow_sender.model_record import ModelRecord
    from mypt_dist.tracking.mlflow_sender.register import register_model

    params = {"architecture": done.architecture, "parameters": str(done.parameters), "dtype": done.dtype}
    tags = {"mypt.checkpoint": done.source.name, "mypt.checkpoint.sha256": done.manifest_sha256}
    record = ModelRecord(name, "transformers", done.folder, params, tags)
    return register_model(record, done.source.parent.parent, uri)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def _bytes(text: str) -> int:
    """Raises `ConfigError` for what is no size."""
    from mypt_dist.errors import ConfigError

    match = re.fullmatch(r"([1-9]\d{0,14})([KMG]?)B?", text.strip().upper())
    if match is None:
        raise ConfigError(f"--shard-size {text!r} must be a number of bytes such as 5GB, 500MB or 1000000")
    return int(match[1]) * _UNITS[match[2]]
