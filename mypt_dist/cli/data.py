"""``mypt data``: text to token shards, a look at them, what a run reads of them, and what else is done to datasets."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli import data_import, data_rewrite, data_views, fetch
from mypt_dist.cli.data_output import Dataset, OverwriteOption, print_manifest
from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.data.coverage import Coverage

app = typer.Typer(
    help="Fetch corpora; prepare, convert, inspect, change and verify datasets; tell what a run reads of them.",
    no_args_is_help=True,
)
app.command("fetch")(fetch.fetch)


@app.command()
def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders or globs of .txt .md .py .jsonl, each also .gz .bz2 .xz .zst; "
            "or stdlib, this Python's own source code.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the dataset.")],
    tokenizer: Annotated[str, typer.Option("--tokenizer", metavar="gpt2|byte|char")] = "gpt2",
    val_fraction: Annotated[float, typer.Option(help="Share of documents held out, chosen by their content.")] = 0.01,
    text_field: Annotated[str, typer.Option(help="The field of a .jsonl line that holds the text.")] = "text",
    dedup: Annotated[bool, typer.Option("--dedup", help="Keep only the first of identical documents.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads that tokenize. Default: all cores.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn text into token shards for training, with a validation split."""
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.config import validate
    from mypt_dist.data.prepare import PrepareSettings, prepare

    log.install()
    settings = validate(
        PrepareSettings,
        {
            "tokenizer": tokenizer,
            "val_fraction": val_fraction,
            "text_field": text_field,
            "dedup": dedup,
            "overwrite": overwrite,
            **({} if workers is None else {"workers": workers}),
        },
        "mypt data prepare",
    )
    with byte_progress("tokenizing") as progress:
        report = prepare(inputs, out, settings, progress)
    manifest = report.manifest
    if as_json:
        print_json(json.loads(manifest.to_bytes()))
        return
    print_manifest(manifest, str(out))


@app.command()
def inspect(
    dataset: Dataset,
    sample: Annotated[int, typer.Option(help="Tokens of decoded text to show.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Show what a dataset holds: its manifest, a decoded sample, the lengths of its documents."""
    from mypt_dist.data.inspect import inspect_dataset

    report = inspect_dataset(dataset, sample_tokens=sample)
    if as_json:
        print_json(report.to_json())
        return
    print_manifest(report.manifest, str(dataset))
    rows = [[name, *(f"{value:,}" for value in lengths)] for name, lengths in report.length_rows()]
    print_table(["tokens a document", "documents", "min", "p10", "median", "p90", "max"], rows)
    print(f"\nsample:\n{report.sample}")


@app.command()
def verify(dataset: Dataset, as_json: JsonOption = False) -> None:
    """Read every byte of a dataset again and compare it with its manifest. Exit 0 or 3."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.verify import verify_dataset
    from mypt_dist.errors import DataError

    with byte_progress("verifying") as progress:
        problems = verify_dataset(dataset, progress)
    if as_json:
        print_json({"dataset": str(dataset), "valid": not problems, "problems": problems})
    elif not problems:
        print(f"{dataset}: every byte is as it was written")
    if problems:
        raise DataError("\n".join([f"{dataset} is damaged:", *(f"  {problem}" for problem in problems)]))


@app.command()
def coverage(
    run_file: Annotated[str, typer.Option("--run", "--run-file", metavar="RUNFILE", help="The run that reads it.")],
    dataset: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A dataset or mixture instead of the run file's own.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="A setting that wins over the run file (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how often a run reads its data, whether that is enough, and how many steps would be.

    What the run's folder has behind it counts, too. Reads manifests alone, and asks nothing.
    """
    from mypt_dist.run.config import RunConfig
    from mypt_dist.run.coverage import planned_coverage

    found = planned_coverage(RunConfig.load(run_file, overrides or []), dataset)
    if as_json:
        print_json(found.to_json())
    else:
        _print_coverage(found)


def _print_coverage(found: "Coverage") -> None:
    from mypt_dist.data.coverage import TARGETS, verdict

    parts = {**found.sources, "all": found.whole}
    rows = [
        [name, f"{part.tokens:,}", f"{part.read:,}", f"{part.ratio:.2f}", verdict(part.ratio)]
        for name, part in parts.items()
    ]
    done = f", {found.done.step:,} of them done" if found.done.step else ""
    print(f"{found.steps:,} steps of {found.tokens_per_step:,} tokens{done}")
    if found.exhausted:
        print(f"then it ends: {found.exhausted}")
    print_table(["source", "tokens to learn from", "tokens read", "times", "verdict"], rows)
    print("steps for " + ", ".join(f"{ratio:g} times: {found.steps_for(ratio):,}" for ratio in TARGETS))


app.command()(data_import.convert)
app.command()(data_import.adopt)
app.command()(data_rewrite.append)
app.command()(data_rewrite.merge)
app.command()(data_rewrite.split)
app.command()(data_views.stats)
app.command()(data_views.diff)
app.command()(data_views.lineage)
