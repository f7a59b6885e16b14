"""``mypt doctor``: what would hurt a run here, and what to do about it."""

from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json
from mypt_dist.cli.train import Overrides

if TYPE_CHECKING:
    from mypt_dist.run.doctor.report import Report

COLOURS = {"ok": "green", "skip": "dim", "warn": "yellow", "fail": "bold red"}


def doctor(
    overrides: Overrides = None,
    run_file: Annotated[
        str | None, typer.Option("--run", "--run-file", metavar="RUNFILE", help="Look at what this run needs, too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at versions, limits, disk, network, data and memory before a run does. Exit 2 if a run would not work.

    Nothing is changed: temporary files are removed. With several ranks: mypt launch TARGET RUNFILE --doctor.
    """
    from mypt_dist.run.config import RunConfig
    from mypt_dist.run.doctor.report import diagnose

    report = diagnose(RunConfig.load(run_file, overrides or []) if run_file else None)
    if report.rank == 0:
        print_json(report.to_json()) if as_json else _print(report)
    raise typer.Exit(report.exit_code)


def _print(report: "Report") -> None:
    """Two lines more for what is not as it should be. Never wrapped, so that it can be searched."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        found = finding.found.replace("\n", f"\n{'':{width + 8}}")
        console.print(
            Text(f"{finding.status:<6}", style=COLOURS[finding.status]),
            f"{finding.name:<{width}} ",
            found,
            sep="",
            markup=False,
        )
        if finding.advice:
            console.print(f"{'':6}prevents: {finding.prevents}\n{'':6}to do: {finding.advice}", markup=False)
    counts = {status: sum(f.status == status for f in report.findings) for status in COLOURS}
    console.print(", ".join(f"{number} {status}" for status, number in counts.items() if number), markup=False)
