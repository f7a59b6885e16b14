"""``mypt ckpt``: what checkpoints a run has, what is in one, whether its bytes are right, and ways out and in."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mypt_dist.cli.ckpt_convert import convert
from mypt_dist.cli.ckpt_export import export
from mypt_dist.cli.ckpt_import import import_
from mypt_dist.cli.tables import JsonOption, print_json, print_table

app = typer.Typer(help="List, show, verify, convert, export and import checkpoints.", no_args_is_help=True)
app.command("convert")(convert)

Run = Annotated[Path, typer.Argument(metavar="PATH", help="A run's folder or one checkpoint in it.")]


@app.command("ls")
def list_(path: Run, as_json: JsonOption = False) -> None:
    """List the checkpoints of a run. Sizes are checked, contents are not: that is what verify does."""
    from mypt_dist.checkpoint import list_checkpoints

    summaries = list_checkpoints(path)
    if as_json:
        print_json([{**asdict(summary), "folder": str(summary.folder)} for summary in summaries])
        return
    rows = [
        [
            summary.folder.name,
            f"{summary.tokens:,}" if summary.tokens is not None else "-",
            f"{summary.bytes / 1e6:,.1f}",
            f"{summary.metrics['val/loss']:.4f}" if "val/loss" in summary.metrics else "-",
            summary.problem or ("ok" if summary.healthy else "unhealthy"),
        ]
        for summary in summaries
    ]
    print_table(["checkpoint", "tokens", "MB", "val/loss", "state"], rows)


@app.command()
def show(path: Run, as_json: JsonOption = False) -> None:
    """Show the manifest of a checkpoint, or of a run's newest valid one."""
    from mypt_dist.checkpoint import open_checkpoint

    with open_checkpoint(path) as checkpoint:
        manifest, folder = checkpoint.manifest, checkpoint.folder
    if as_json:
        print_json(json.loads(manifest.model_dump_json()))
        return
    facts = {
        "checkpoint": str(folder),
        "step": f"{manifest.step:,}",
        "tokens": f"{manifest.tokens:,}",
        "samples": f"{manifest.samples:,}",
        "order hash": manifest.order_hash,
        "written by": f"{manifest.world_size} ranks ({manifest.engine.get('name')})",
        "code": f"{manifest.code.get('version')} {manifest.code.get('commit') or ''}",
        "model": json.dumps(manifest.run.get("model")),
        "started from": _origin(manifest.origin),
        "sources": json.dumps(manifest.sources),
        "weights": json.dumps(manifest.data.get("stretches")),
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in sorted(manifest.metrics.items())),
        "health": "ok" if manifest.healthy else "unhealthy: not one to go back to",
        "canary": f"loss {float.fromhex(manifest.canary.loss):.6g} of {manifest.canary.batch}"
        if manifest.canary
        else "none",
        "run lock": manifest.lock_token or "none",
        "files": f"{len(manifest.files)}, {sum(entry.bytes for entry in manifest.files.values()):,} bytes",
        "tensors": f"{len(manifest.tensors)}",
        "changes": json.dumps(manifest.changes) if manifest.changes else "none",
    }
    print_table(["", ""], [[key, value] for key, value in facts.items()])


def _origin(origin: Mapping[str, Any] | None) -> str:
    """One line for each checkpoint that the weights come from, the nearest first."""
    if not origin:
        return "random weights"
    if "program" in origin:
        return f"{origin['path']}, of {origin['program']} ({origin['generation']})"
    before = origin.get("origin")
    return f"{origin['path']}" + (f", which was started from {_origin(before)}" if before else "")


@app.command()
def verify(path: Run, as_json: JsonOption = False) -> None:
    """Read every byte of a checkpoint, or of all those of a run, and compare with the manifest. Exit 0 or 6."""
    from mypt_dist.checkpoint import verify_checkpoint
    from mypt_dist.errors import CheckpointError

    begin = time.monotonic()
    problems = verify_checkpoint(path)
    if as_json:
        print_json({"path": str(path), "valid": not problems, "problems": problems})
    elif not problems:
        print(f"{path}: every byte is as it was written ({time.monotonic() - begin:.1f} s)")
    if problems:
        raise CheckpointError("\n".join([f"{path} is damaged:", *(f"  {problem}" for problem in problems)]))


@app.command()
def pull(
    mirror: Annotated[str, typer.Argument(metavar="MIRROR", help="The folder or URL of `checkpoints.mirror`.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run's folder, which need not exist.")],
    step: Annotated[int | None, typer.Option("--step", help="Which one. Default: the newest.")] = None,
) -> None:
    """Take the newest copy of a run's checkpoints, or that of a step, back from its mirror, verified."""
    from mypt_dist.checkpoint import Mirror, MirrorTarget, Retention, RunLock
    from mypt_dist.errors import CheckpointError

    place = Mirror(out.resolve() / "checkpoints", MirrorTarget(mirror), Retention())
    # A run that trains in this folder would take what is only half here for the rest of a dead save.
    with RunLock(out.resolve()):
        pulled = place.pull(step)
    if pulled is None:
        raise CheckpointError(f"{mirror} has no checkpoint" + (f" of step {step}" if step is not None else ""))
    print(f"{pulled}: every byte is as it was written")


app.command("export")(export)
app.command("import")(import_)
