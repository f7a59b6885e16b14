"""``mypt rehearse``: the run, small, on virtual nodes of this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table
from mypt_dist.cli.train import AllowChange, Overrides, RunFile

if TYPE_CHECKING:
    from mypt_dist.run.rehearse.perform import Audience
    from mypt_dist.run.rehearse.report import Report


def rehearse(
    run_file: RunFile,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="Virtual nodes: machines of the cluster.")] = 2,
    ranks: Annotated[int, typer.Option(min=1, help="Processes over all nodes: one for each GPU.")] = 2,
    target: Annotated[str, typer.Option(metavar="TARGET", help="As of mypt launch.")] = "ddp",
    replicas: Annotated[int | None, typer.Option(min=1, help="hsdp: copies of the sharded state.")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST", help="Of the real launch: whether it can be resolved here.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="There: whether it is free here.")] = None,
    memory: Annotated[float | None, typer.Option(metavar="GIB", help="Of one GPU: whether a rank fits.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Just this stage (repeatable).")] = None,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Play there, and leave everything behind.")] = None,
    allow_change: AllowChange = None,
    as_json: JsonOption = False,
) -> None:
    """Play a run small, as several virtual nodes on CPUs of this machine, before a cluster is paid for.

    First the configuration is checked, the real one; then it is played: launch, steps, saves, a tracker that is down, a
    SIGTERM, a killed node, a resume on fewer ranks, and text from the last checkpoint. Nothing is left behind.
    Exit code 2 if a stage failed.
    """
    from mypt_dist.launch.plan import Place
    from mypt_dist.run.config import RunConfig

    config = RunConfig.load(run_file, overrides or [])

    from mypt_dist.errors import Interrupted
    from mypt_dist.run.rehearse.perform import Wish, perform

    wish = Wish(
        config=config,
        target=target,
        place=Place(ranks=ranks, replicas=replicas, nodes=nodes, address=address, port=port),
        memory=None if memory is None else round(memory * 2**30),
        only=tuple(only or ()),
        keep=keep,
        allowed=tuple(allow_change or ()),
    )
    try:
        report = perform(wish, _audience())
    except KeyboardInterrupt:
        raise Interrupted("stopped by SIGINT; nothing was left behind", 2) from None
    _print(report, as_json)
    if not report.ok:
        raise typer.Exit(2)


def _print(report: "Report", as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
        return
    print(f"{report.name}: {report.target} ({report.engine}), {report.world}\n")
    print_table(["stage", "verdict", "s", "what was seen"], report.rows())
    print()
    print("\n".join(report.notes()))


def _audience() -> "Audience":
    """A spinner and a line for each stage on a terminal, lines alone in a log; both on stderr."""
    from rich.console import Console

    from mypt_dist.cli.rehearsal_view import Lines, Spinner

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    return Spinner(console) if console.is_terminal else Lines(console)
