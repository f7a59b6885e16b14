"""``mypt launch``: start the ranks that a launch file asks for."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.supervise import Limits, check_limits, supervised
from mypt_dist.cli.tables import print_json, print_table
from mypt_dist.cli.train import AllowChange, Overrides

if TYPE_CHECKING:
    from mypt_dist.launch.allotment import Allotment
    from mypt_dist.launch.command import Command
    from mypt_dist.launch.plan import Launch
    from mypt_dist.run.config import RunConfig

Target = Annotated[
    str | None,
    typer.Argument(metavar="TARGET", help="Of the --list, or a launch file of your own.", show_default=False),
]
RunFile = Annotated[
    str | None, typer.Argument(metavar="RUNFILE", help="A run file, or the name of a shipped one.", show_default=False)
]


def launch(
    target: Target = None,
    run_file: RunFile = None,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes over all machines: one for each GPU.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="hsdp: copies of the sharded state.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines; give the command on each of them.")] = None,
    node_rank: Annotated[int | None, typer.Option(min=0, help="Which of the machines this is, from 0.")] = None,
    address: Annotated[str | None, typer.Option(metavar="HOST", help="By which all machines reach number 0.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="There; on one machine any free one.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Compute on CPUs: to try any target on a laptop.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Take nothing from Slurm, Kubernetes or SkyPilot.")] = False,
    allow_change: AllowChange = None,
    supervise: Annotated[bool, typer.Option("--supervise", help="Stay, and restart after faults that pass.")] = False,
    max_restarts: Annotated[
        int | None, typer.Option(min=0, help="In a row without a new checkpoint. Default: 3.", show_default=False)
    ] = None,
    min_ranks: Annotated[int | None, typer.Option(min=1, help="Go on with as few, if some are lost for good.")] = None,
    doctor: Annotated[bool, typer.Option("--doctor", help="Start mypt doctor on the ranks instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command instead of executing it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON instead of executing it.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the shipped targets.")] = False,
) -> None:
    """Train what a run file describes on several ranks, shared as a launch file says.

    Launch file and run file are checked first; then this process becomes the launcher, or its supervisor. What Slurm,
    Kubeflow Trainer, an indexed job or SkyPilot says of nodes and GPUs need not be said again.
    """
    if list_:
        _list(as_json)
        return
    from mypt_dist.errors import ConfigError

    if target is None or run_file is None:
        raise ConfigError("mypt launch needs a TARGET and a RUNFILE; mypt launch --list shows the targets")
    from mypt_dist.launch.allotment import Allotment, read_allotment, settle
    from mypt_dist.launch.command import command
    from mypt_dist.launch.files import read_launch_file
    from mypt_dist.launch.plan import Place, plan

    file = read_launch_file(target)
    allotment = Allotment() if plain else read_allotment(os.environ)
    place = settle(file, Place(ranks, replicas, nodes, node_rank, address, port, cpu), allotment)
    launch = plan(file, place)
    config = _checked(run_file, overrides or [], launch.topology.ranks)
    limits = Limits(max_restarts, min_ranks)
    check_limits(launch, limits, supervise)
    arguments = ["doctor", "--run-file"] if doctor else ["train"]
    arguments += [run_file, *(overrides or [])]
    if not doctor:
        arguments += [text for key in allow_change or [] for text in ("--allow-change", key)]
    found = command(launch, arguments, os.environ, len(os.sched_getaffinity(0)))
    if as_json:
        _print_json(launch, allotment, found)
    elif dry_run:
        print(_described(allotment, found))
    else:
        print(_described(allotment, found), file=sys.stderr, flush=True)
        if supervise:
            raise typer.Exit(supervised(launch, place, config, arguments, limits))
        os.execvpe(found.arguments[0], found.arguments, {**os.environ, **found.environment})


def _checked(run_file: str, overrides: list[str], ranks: int) -> "RunConfig":
    """Tell what is wrong with a run file once, before there are ranks to tell it."""
    from mypt_dist.run.config import RunConfig
    from mypt_dist.run.shares import micro_batch_of

    config = RunConfig.load(run_file, overrides)
    micro_batch_of(config.train, ranks)
    return config


def _described(allotment: "Allotment", found: "Command") -> str:
    """For a shell, below a comment that says what it follows from."""
    told = ", ".join(allotment.lines())
    return f"# {allotment.scheduler}: {told}\n{found.shell()}" if told else found.shell()


def _print_json(launch: "Launch", allotment: "Allotment", found: "Command") -> None:
    from dataclasses import asdict

    about = {"target": launch.file.name, "file": str(launch.file.path), "topology": asdict(launch.topology)}
    about["allotment"] = asdict(allotment)
    print_json({**about, "environment": found.environment, "command": found.arguments, "shell": found.shell()})


def _list(as_json: bool) -> None:
    from mypt_dist.launch.files import targets

    entries = [{"name": t.name, "engine": t.engine, "description": t.description} for t in targets()]
    if as_json:
        print_json(entries)
    else:
        print_table(["target", "engine", "what it is for"], [list(entry.values()) for entry in entries])
