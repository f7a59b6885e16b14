"""``mypt data append``, ``merge`` and ``split``: datasets made of datasets."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mypt_dist.cli.data_output import OverwriteOption, print_manifest
from mypt_dist.cli.tables import JsonOption, print_json
from mypt_dist.errors import ConfigError

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for what is made.")]


def append(
    dataset: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset; it grows.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Text to add, as for mypt data prepare.")],
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the new documents held out. Default: as in the dataset.")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help="The field of a .jsonl line that holds the text. Default: as in the dataset.")
    ] = None,
    dedup: Annotated[
        bool | None, typer.Option("--dedup/--no-dedup", help="Among the new documents. Default: as in the dataset.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that tokenize. Default: all cores.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add text to a dataset as new shards. What it was before is kept as a version: DIR/versions/FINGERPRINT."""
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.config import validate
    from mypt_dist.data.prepare import PrepareSettings
    from mypt_dist.data.rewrite.append import append, settings_of

    log.install()
    options = {"val_fraction": val_fraction, "text_field": text_field, "dedup": dedup, "workers": workers}
    said = {name: value for name, value in options.items() if value is not None}
    settings = validate(PrepareSettings, {**settings_of(dataset).model_dump(), **said}, "mypt data append")
    with byte_progress("tokenizing") as progress:
        manifest = append(dataset, inputs, settings, progress)
    if as_json:
        print_json(json.loads(manifest.to_bytes()))
        return
    print_manifest(manifest, str(dataset))
    assert manifest.lineage is not None, "append has recorded it"
    print(f"what it was before is kept: {dataset / manifest.lineage.parents[0].path}")


def merge(
    datasets: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Datasets with the same tokenizer.")],
    out: OutOption,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write several datasets as one. To weigh them against each other, name them in data.sources instead."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.rewrite.merge import merge

    with byte_progress("merging") as progress:
        manifest = merge(datasets, out, overwrite=overwrite, progress=progress)
    if as_json:
        print_json(json.loads(manifest.to_bytes()))
    else:
        print_manifest(manifest, str(out))


def split(
    dataset: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset; it stays as it is.")],
    out: OutOption,
    val_fraction: Annotated[
        float | None, typer.Option(help="Hold out this share of the training documents, chosen by their content.")
    ] = None,
    parts: Annotated[
        int | None, typer.Option(help="Cut into so many datasets, DIR/part-000 and on: about as many tokens in each.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset with more held out, or as several datasets. Documents stay whole."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.rewrite.split import cut_in_parts, hold_out

    with byte_progress("splitting") as progress:
        match val_fraction, parts:
            case float(), None:
                made = {out: hold_out(dataset, out, val_fraction, overwrite=overwrite, progress=progress)}
            case None, int():
                found = cut_in_parts(dataset, out, parts, overwrite=overwrite, progress=progress)
                made = {out / f"part-{number:03d}": manifest for number, manifest in enumerate(found)}
            case _:
                raise ConfigError("mypt data split: say either --val-fraction or --parts")
    if as_json:
        print_json({str(place): json.loads(manifest.to_bytes()) for place, manifest in made.items()})
        return
    for place, manifest in made.items():
        print_manifest(manifest, str(place))
