"""``mypt ckpt import``: a model that another program saved, as the first checkpoint of a run."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json


class Source(StrEnum):
    """What is read."""

    hf = "hf"


def import_(
    source: Annotated[Source, typer.Argument(metavar="hf", help="What it is: a model that transformers saved.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Its folder, or its one safetensors file.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run's folder, which need not exist.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="Where the folder has none that can be used: gpt2, byte, char:TEXTFILE, a JSON file with a "
            "tokenizer's state, or a dataset with the same one.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a Llama, Qwen3 or GPT-2 that transformers saved as a checkpoint: weights as they are, tokenizer included.

    Reads config.json, safetensors and tokenizer.json of a local folder; nothing is downloaded and no code is run. A
    setting that no model here computes is refused by its key.
    """
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.interchange import write_adopted
    from mypt_dist.interchange.hf.adopt import adopt_hf

    assert source is Source.hf
    log.install()
    adopted = adopt_hf(path, tokenizer)
    with byte_progress("importing") as progress:
        folder = write_adopted(adopted, out, progress)
    origin = adopted.origin
    if as_json:
        print_json(
            {
                "checkpoint": str(folder),
                "architecture": origin.generation,
                "model": adopted.model.model_dump(mode="json"),
                "tokenizer": {"kind": adopted.tokenizer.kind, "vocab_size": adopted.tokenizer.vocab_size},
                "dtypes": origin.dtypes,
                "notes": list(origin.notes),
            }
        )
        return
    types = ", ".join(f"{count} {dtype}" for dtype, count in origin.dtypes.items())
    tokens = f"{adopted.tokenizer.kind} tokenizer of {adopted.tokenizer.vocab_size:,} ids"
    print(f"{folder}: {origin.generation}, {adopted.model.type_name()} here ({types}), {tokens}")
    for note in origin.notes:
        print(f"note: {note}")
