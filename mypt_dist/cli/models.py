"""``mypt models``: the runs of a folder as a registry: list, show, tag, remove."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

app = typer.Typer(help="List, show, tag and remove trained models.", no_args_is_help=True)

Root = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where names are looked for.")]
Name = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name in --runs.")]

RUNS = Path("runs")


@app.command("ls")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="A folder with runs in it, at any depth.")] = RUNS,
    tag: Annotated[
        list[str], typer.Option("--tag", metavar="NAME[=VALUE]", help="Only those that have it (repeatable).")
    ] = [],  # noqa: B006 - typer copies it
    as_json: JsonOption = False,
) -> None:
    """List every run that has a checkpoint, with what its newest one says."""
    from mypt_dist.run.models import list_models

    lines = [line for line in list_models(folder) if all(_has(line["tags"], wanted) for wanted in tag)]
    if as_json:
        print_json(lines)
        return
    rows = [
        [
            str(line["path"]),
            f"{line['parameters']:,}",
            f"{line['step']:,}",
            f"{line['tokens']:,}",
            f"{line['metrics']['val/loss']:.4f}" if "val/loss" in line["metrics"] else "-",
            f"{line['bytes'] / 1e6:,.1f}",
            line["state"],
            _joined(line["tags"]),
        ]
        for line in lines
    ]
    print_table(["run", "parameters", "step", "tokens", "val/loss", "MB", "state", "tags"], rows)


@app.command()
def info(name: Name, runs: Root = RUNS, as_json: JsonOption = False) -> None:
    """Show a run's newest model: architecture, training, tags, evaluations. Reads every byte, to verify it."""
    from mypt_dist.run.folders import find_run
    from mypt_dist.run.models import get_model_info

    path = Path(name)
    # One checkpoint may be meant, too.
    found = get_model_info(path if (path / "manifest.json").is_file() else find_run(name, runs))
    if as_json:
        print_json(found)
        return
    model = {key: value for key, value in found["model"].items() if value is not None}
    facts = {
        "checkpoint": found["path"],
        "state": found["state"],
        "tags": _joined(found["tags"]) or "none",
        "parameters": f"{found['parameters']:,}",
        "step": f"{found['step']:,}",
        "tokens": f"{found['tokens']:,}",
        "model": ", ".join(f"{key} {value}" for key, value in model.items()),
        "data": ", ".join(str(name) for name in found["data"].get("sources", {})) or "-",
        "metrics": _numbers(found["metrics"]),
        "code": f"{found['code'].get('version')} {found['code'].get('commit') or ''}".strip(),
    }
    print_table(["", ""], [[key, value] for key, value in facts.items()])
    if found["evaluations"]:
        print()
        rows = [[str(one["step"]), one["name"], _numbers(one["metrics"])] for one in found["evaluations"]]
        print_table(["step", "evaluation", "metrics"], rows)


@app.command()
def tag(
    name: Name,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="NAME= takes a tag away. None: show them.")
    ] = None,
    runs: Root = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Set, take away or show the tags of a run. They are kept in its folder, in tags.json."""
    from mypt_dist.errors import ConfigError
    from mypt_dist.run import folders

    run, wanted = folders.find_run(name, runs), dict[str, str]()
    for change in changes or []:
        key, sign, value = change.partition("=")
        if not sign:
            raise ConfigError(f"a tag is written NAME=VALUE, got {change!r}")
        wanted[key] = value
    tags = folders.tag(run, wanted) if wanted else folders.tags_of(run)
    if as_json:
        print_json(tags)
    else:
        print_table(["tag", "value"], [[key, value] for key, value in tags.items()])


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs, or names in --runs.")],
    runs: Root = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="Really. Nothing is asked.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove runs with all their checkpoints. One that trains is refused; mirrors and MLflow keep what they have."""
    from mypt_dist.errors import ConfigError
    from mypt_dist.run import folders

    # Found before any is removed: a slip of the pen costs nothing.
    found = list(dict.fromkeys(folders.find_run(name, runs) for name in names))
    sizes = {str(run): folders.size_of(run) for run in found}
    if not yes:
        what = ", ".join(f"{run} ({size / 1e6:,.1f} MB)" for run, size in sizes.items())
        raise ConfigError(f"nothing was removed: --yes would remove {what}")
    for run in found:
        folders.remove(run)
        if not as_json:
            print(f"removed {run}: {sizes[str(run)] / 1e6:,.1f} MB")
    if as_json:
        print_json([{"path": path, "bytes": size} for path, size in sizes.items()])


def _has(tags: dict[str, str], wanted: str) -> bool:
    name, sign, value = wanted.partition("=")
    return name in tags and (not sign or tags[name] == value)


def _joined(tags: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())


def _numbers(metrics: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {'-' if value is None else format(value, '.4g')}" for name, value in sorted(metrics.items())
    )
