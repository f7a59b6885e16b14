"""``mypt runs``: what became of the numbers of a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json

app = typer.Typer(help="Work with the records of runs.", no_args_is_help=True)


@app.command()
def sync(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")],
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI. Default: the one the run used.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send to MLflow what could not be sent while the run was going on. Sends nothing twice."""
    from mypt_dist import log
    from mypt_dist.tracking.mlflow_tracker import sync as send

    log.install()
    report = send(run, uri)
    if as_json:
        print_json(asdict(report))
    else:
        print(report)
