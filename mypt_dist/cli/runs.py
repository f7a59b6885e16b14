"""``mypt runs``: what became of the numbers of a run, and whether it is alive."""

import time
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


@app.command()
def alive(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run's folder, or one with runs in it: the last heard of counts.")
    ],
    max_age: Annotated[
        float, typer.Option(metavar="SECONDS", help="A run that told nothing for longer is dead.")
    ] = 120,
    as_json: JsonOption = False,
) -> None:
    """Is the run alive? For health checks of containers: exit code 0 if it is, 1 if it is not, 2 for bad input.

    Not alive is also what has not begun, has ended or has hung.
    """
    from mypt_dist.watch.heartbeat import health, last_heard

    found = health(last_heard(run), max_age, time.time())
    if as_json:
        print_json(asdict(found))
    else:
        print(found.reason)
    raise typer.Exit(0 if found.alive else 1)
