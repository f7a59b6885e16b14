"""``mypt data coverage``: how often a run reads its data, and whether that is enough."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.data.coverage import Coverage


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
