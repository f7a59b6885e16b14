"""``mypt data``: text to token shards, a look at them, and what else is done to datasets."""

from pathlib import Path
from typing import Annotated

import typer

from mypt_dist.cli import data_chat, data_coverage, data_import, data_rewrite, data_views, fetch, prepare
from mypt_dist.cli.data_output import AnyDataset, fetched, place, print_manifest
from mypt_dist.cli.tables import JsonOption, print_json, print_table

app = typer.Typer(help="Fetch corpora; prepare, convert, inspect, change and verify datasets.", no_args_is_help=True)
app.command("fetch")(fetch.fetch)
app.command("prepare")(prepare.prepare)
app.command("prepare-chat")(data_chat.prepare_chat)
app.command("export-chat")(data_chat.export_chat)


@app.command()
def inspect(
    dataset: AnyDataset,
    sample: Annotated[int, typer.Option(help="Tokens of decoded text to show.")] = 200,
    masks: Annotated[
        int, typer.Option("--masks", metavar="N", help="Show N conversations, what is learned of them in colour.")
    ] = 0,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="With --masks: write a page instead.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a dataset holds: its manifest, a decoded sample, the lengths of its documents; or its masks."""
    from mypt_dist.data.inspect import inspect_dataset

    if masks or html:
        with fetched(dataset) as folder:
            data_chat.show_masks(folder, masks or data_chat.SHOWN, html)
        return
    with fetched(dataset) as folder:
        report = inspect_dataset(folder, sample_tokens=sample)
    if as_json:
        print_json(report.to_json())
        return
    print_manifest(report.manifest, dataset)
    rows = [[name, *(f"{value:,}" for value in lengths)] for name, lengths in report.length_rows()]
    print_table(["tokens a document", "documents", "min", "p10", "median", "p90", "max"], rows)
    print(f"\nsample:\n{report.sample}")


@app.command()
def verify(dataset: AnyDataset, as_json: JsonOption = False) -> None:
    """Read every byte of a dataset again and compare it with its manifest. Exit 0 or 3."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.verify import verify_dataset
    from mypt_dist.errors import DataError

    with byte_progress("verifying") as progress:
        problems = verify_dataset(place(dataset), progress)
    if as_json:
        print_json({"dataset": dataset, "valid": not problems, "problems": problems})
    elif not problems:
        print(f"{dataset}: every byte is as it was written")
    if problems:
        raise DataError("\n".join([f"{dataset} is damaged:", *(f"  {problem}" for problem in problems)]))


app.command()(data_import.convert)
app.command()(data_import.adopt)
app.command()(data_rewrite.append)
app.command()(data_rewrite.merge)
app.command()(data_rewrite.split)
app.command()(data_views.stats)
app.command()(data_views.diff)
app.command()(data_views.lineage)
app.command()(data_coverage.coverage)
