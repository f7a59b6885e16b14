"""``mypt data adopt`` and ``convert``: datasets of other programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mypt_dist.cli.data_output import OverwriteOption, print_manifest
from mypt_dist.cli.tables import JsonOption, print_json

NAMES = "mypt|mypt-sft|mypt-episodes|nanogpt|megatron|llmc|npy"

FromOption = Annotated[
    str | None, typer.Option("--from", metavar=NAMES, help="The format. Default: recognised by content.")
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        help="What the tokens were written with, where the data does not say: gpt2, byte, char:TEXTFILE, "
        "mypt-2025-12, mypt-2026-03, a JSON file with a tokenizer's state, or a dataset with the same one.",
    ),
]


def adopt(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that another program wrote.")],
    from_format: FromOption = None,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a dataset of another program where it lies, so that data.path may name it. Reads it once, whole."""
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.foreign import adopt
    from mypt_dist.data.foreign.convert import ForeignOptions

    log.install()
    with byte_progress("reading") as progress:
        manifest, where = adopt(source, ForeignOptions(from_format, tokenizer), progress)
    if as_json:
        print_json(json.loads(manifest.to_bytes()))
        return
    print_manifest(manifest, str(source))
    print(f"described in {where}; a run reads it in place with data.path={source}")


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder or file that another program wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the dataset.")],
    from_format: FromOption = None,
    tokenizer: TokenizerOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a dataset of another program into one of ours: tokens, documents, masks and weights."""
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.foreign import convert
    from mypt_dist.data.foreign.convert import ForeignOptions

    log.install()
    with byte_progress("converting") as progress:
        manifest = convert(source, out, ForeignOptions(from_format, tokenizer, overwrite), progress)
    if as_json:
        print_json(json.loads(manifest.to_bytes()))
    else:
        print_manifest(manifest, str(out))
