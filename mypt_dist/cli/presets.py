"""``mypt presets`` and ``mypt schema``: what can stand in a run file."""

from typing import Annotated, Literal

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

app = typer.Typer(help="List and show the shipped presets and run files.", no_args_is_help=True)


@app.command("ls")
def list_(as_json: JsonOption = False) -> None:
    """List them by name; a name works wherever a file does."""
    from mypt_dist.config.presets import describe

    entries = describe()
    if as_json:
        print_json(entries)
        return
    rows = [[e["name"], f"{e['parameters']:,}" if e["parameters"] else "-", e["description"]] for e in entries]
    print_table(["name", "parameters", "what it is"], rows)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A preset's name, such as small.")]) -> None:
    """Print a preset with everything it extends merged in."""
    from mypt_dist.config import load_mapping

    print_json(load_mapping(name))


def schema(
    what: Annotated[
        Literal["run", "preset", "manifest", "dataset", "mixture", "sources"], typer.Argument(help="Of which file.")
    ] = "run",
) -> None:
    """Print the JSON Schema of a run file, a preset, a manifest of a checkpoint or dataset, a mixture or a sources
    file."""
    from mypt_dist.run.schema import json_schema

    print_json(json_schema(what))
