"""``mypt data prepare``: text, or the corpora of a sources file, to token shards."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.data_output import OverwriteOption, print_manifest
from mypt_dist.cli.fetch import OnlyOption, WeightOption, weights_of
from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.data.prepare import PrepareSettings
    from mypt_dist.data.sources import PrepareOptions


def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders or globs of .txt .md .py .jsonl, each also .gz .bz2 .xz .zst; "
            "or stdlib, this Python's own source code; or one sources file (SOURCES.json, de-en, de-en-debian), "
            "each source of which becomes a dataset of its own in DIR.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the dataset, or for those of sources.")],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="gpt2|byte|char|FILE|DIR",
            help="By name; a file of mypt tokenizer train; or the folder of a dataset, for its own.",
        ),
    ] = "gpt2",
    val_fraction: Annotated[float, typer.Option(help="Share of documents held out, chosen by their content.")] = 0.01,
    text_field: Annotated[
        str | None,
        typer.Option(
            help="The field of a .jsonl line that holds the text: a path such as article.body. Default: text."
        ),
    ] = None,
    dedup: Annotated[
        bool, typer.Option("--dedup", help="Keep only the first of identical documents, of each source.")
    ] = False,
    fetched: Annotated[
        Path | None, typer.Option("--fetched", metavar="DIR", help="Sources: where mypt data fetch has put them.")
    ] = None,
    only: OnlyOption = [],  # noqa: B006 - typer copies it
    weight: WeightOption = [],  # noqa: B006
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", metavar="DIR", help="Sources: write what is left out, and why, to DIR/KEY.jsonl."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that tokenize. Default: all cores.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn text into token shards for training, with a validation split.

    Of a sources file, what is finished is not done again, and what was broken off goes on; DIR/mixture.json names all.
    """
    from mypt_dist import log
    from mypt_dist.config import validate
    from mypt_dist.data.prepare import PrepareSettings
    from mypt_dist.data.sources import PrepareOptions
    from mypt_dist.errors import ConfigError

    log.install()
    settings = validate(
        PrepareSettings,
        {
            "tokenizer": tokenizer,
            "val_fraction": val_fraction,
            "dedup": dedup,
            "overwrite": overwrite,
            **({} if workers is None else {"workers": workers}),
            **({} if text_field is None else {"text_field": text_field}),
        },
        "mypt data prepare",
    )
    if not _is_sources_file(inputs):
        if fetched or only or weight or rejects:
            raise ConfigError("--fetched, --only, --weight and --rejects are for a sources file: give one, and no text")
        _prepare_texts(inputs, out, settings, as_json)
    elif len(inputs) > 1:
        raise ConfigError("a sources file is prepared alone: give one, and no other input")
    elif text_field is not None:
        raise ConfigError('--text-field is for text: a sources file says "format": {"type": "jsonl", "field": "…"}')
    else:
        options = PrepareOptions(fetched, only, weights_of(weight), rejects)
        _prepare_sources(inputs[0], out, settings, options, as_json=as_json)


def _is_sources_file(inputs: list[str]) -> bool:
    from mypt_dist.config.presets import names
    from mypt_dist.data.sources.read import SHIPPED

    is_json = any(given.endswith(".json") for given in inputs)
    return is_json or (len(inputs) == 1 and inputs[0] in names(SHIPPED) and not Path(inputs[0]).exists())


def _prepare_texts(inputs: list[str], out: Path, settings: "PrepareSettings", as_json: bool) -> None:
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.prepare import prepare

    with byte_progress("tokenizing") as progress:
        manifest = prepare(inputs, out, settings, progress).manifest
    if as_json:
        print_json(json.loads(manifest.to_bytes()))
        return
    print_manifest(manifest, str(out))


def _prepare_sources(
    name: str, out: Path, settings: "PrepareSettings", options: "PrepareOptions", *, as_json: bool
) -> None:
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.sources import prepare_sources, read_sources

    manifests = prepare_sources(read_sources(name), out, settings, options, byte_progress)
    if as_json:
        print_json({key: json.loads(manifest.to_bytes()) for key, manifest in manifests.items()})
        return
    print(f"{out}:")
    rows = [
        [
            key,
            *(
                f"{getattr(manifest.split(split), what):,}"
                for split in ("train", "val")
                for what in ("documents", "tokens")
            ),
            ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in manifest.counts.left_out().items())
            or "-",
        ]
        for key, manifest in manifests.items()
    ]
    print_table(["source", "train documents", "tokens", "val documents", "tokens", "left out"], rows)
