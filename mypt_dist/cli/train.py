"""``mypt train`` and ``mypt quickstart``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mypt_dist.cli.streams import tell

RunFile = Annotated[
    str, typer.Argument(metavar="RUNFILE", help="A run file (JSON or YAML), or the name of a shipped one.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings that win over the run file.")
]
AllowChange = Annotated[
    list[str] | None,
    typer.Option("--allow-change", metavar="KEY", help="On resume, accept that this setting differs (repeatable)."),
]


def train(run_file: RunFile, overrides: Overrides = None, allow_change: AllowChange = None) -> None:
    """Train what a run file describes; resume if its folder holds a checkpoint.

    Start several ranks with accelerate launch or torchrun and -m mypt_dist train.
    A first SIGTERM, SIGUSR1, SIGHUP or Ctrl-C saves a checkpoint and stops all ranks at the same step, a second one at
    once. Files STOP and SAVE_NOW in the run's folder do the same without a signal.
    """
    from mypt_dist import log
    from mypt_dist.run.config import RunConfig
    from mypt_dist.run.main_rank import before_ranks_meet
    from mypt_dist.watch.orphans import die_with_launcher

    # Before the imports that take seconds: a launcher that is killed meanwhile must not leave this rank behind.
    die_with_launcher(os.environ)
    rank = int(os.environ.get("RANK", "0"))
    log.install(rank)
    with before_ranks_meet():
        config = RunConfig.load(run_file, overrides or [])

    from mypt_dist.run.build import train as run

    outcome = run(config, allow_changes=allow_change or [])
    outcome.raise_if_interrupted()
    if rank == 0:
        tell(f"trained to step {outcome.state.step} of {outcome.steps}, {outcome.state.tokens:,} tokens")
        tell(f"run folder: {os.path.relpath(outcome.folder)}")


def quickstart(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the dataset and the run.")] = Path(
        "runs/quickstart"
    ),
    overrides: Overrides = None,
) -> None:
    """Train a small GPT on Python's own standard library: prepare, train, checkpoint, sample. Downloads nothing."""
    from mypt_dist import log
    from mypt_dist.run.quickstart import quickstart as run

    log.install()
    run(folder, overrides or [], say=print)
