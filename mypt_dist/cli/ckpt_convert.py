"""``mypt ckpt convert``: checkpoints of MyPT and of nanoGPT become checkpoints of ours."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.data.progress import Progress
    from mypt_dist.interchange.trainers.conversion import Options, Report

CHECKPOINTS, RUNS = Path("checkpoints"), Path("runs")
"""Where MyPT kept its models, and where ours are kept."""

SourceArgument = Annotated[
    Path | None,
    typer.Argument(metavar="SRC", help="A folder or file of MyPT or nanoGPT; with --all, a folder of such folders."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DST", help="The run folder to be made; with --all, one for each in it. Default: runs/NAME."
    ),
]
AllOption = Annotated[
    bool, typer.Option("--all", help="Every checkpoint in SRC, or in checkpoints/; go on where one is refused.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
NameOption = Annotated[
    str | None, typer.Option("--model_name", "--model-name", metavar="NAME", help="As in MyPT: checkpoints/NAME.")
]
FileOption = Annotated[
    str | None, typer.Option("--checkpoint", metavar="FILE", help="Which file of a folder that has several.")
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        help="What it was trained with, where it does not say: gpt2, byte, char:TEXTFILE, mypt-2025-12, mypt-2026-03, "
        "a JSON file with a tokenizer's state, or a dataset with the same one.",
    ),
]
WeightsOnlyOption = Annotated[bool, typer.Option("--weights-only", help="Leave the optimizer's state behind.")]


def convert(
    source: SourceArgument = None,
    out: OutOption = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
    model_name: NameOption = None,
    checkpoint: FileOption = None,
    tokenizer: TokenizerOption = None,
    weights_only: WeightsOnlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn checkpoints of MyPT or nanoGPT into ours: weights, optimizer, tokenizer and step. The originals stay.

    Pickles are looked into by a process that can do no harm, and never executed. Asks nothing, and done again does
    nothing.
    """
    from mypt_dist import log
    from mypt_dist.interchange.trainers.conversion import Options

    log.install()
    options = Options(tokenizer, weights_only, dry_run)
    if every:
        _convert_all(_only(source, model_name, checkpoint), out or RUNS, options, as_json)
    else:
        _convert_one(*_named(source, model_name, checkpoint), out, options, as_json)


def _convert_one(path: Path, checkpoint: str | None, out: Path | None, options: "Options", as_json: bool) -> None:
    from mypt_dist.interchange.trainers.conversion import convert
    from mypt_dist.interchange.trainers.sources import find

    found = find(path, checkpoint)
    with _progress() as progress_of:
        report = convert(found, out or RUNS / found.name, options, progress_of(found.name))
    if as_json:
        print_json(asdict(report))
    else:
        _print([report])


def _convert_all(folder: Path, out: Path, options: "Options", as_json: bool) -> None:
    from mypt_dist.interchange.trainers.conversion import convert_all

    with _progress() as progress_of:
        reports, errors = convert_all(folder, out, options, progress_of)
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        _print(reports)
    if errors:
        # The gravest, so that a script that looks at exit codes alone learns of damage.
        gravest = max(errors, key=lambda error: error.exit_code)
        raise type(gravest)(f"{len(errors)} of {len(reports)} checkpoints in {folder} were refused: {gravest}")


def _named(source: Path | None, model_name: str | None, checkpoint: str | None) -> tuple[Path, str | None]:
    """A folder or file, and which file of the folder, if that was said. Raises `ConfigError`."""
    from mypt_dist.config import inside
    from mypt_dist.errors import ConfigError

    if source is not None and model_name is None:
        return source, checkpoint
    if source is None and model_name is not None:
        return inside(CHECKPOINTS, model_name), checkpoint
    if source is None and checkpoint is not None:
        return Path(checkpoint), None
    raise ConfigError(
        "say which checkpoint: SRC, or --model_name NAME for checkpoints/NAME, or --all for every one in a folder"
        if source is None
        else f"{source} and --model_name {model_name} both say which checkpoint: give one of them"
    )


def _only(source: Path | None, model_name: str | None, checkpoint: str | None) -> Path:
    from mypt_dist.errors import ConfigError

    if model_name is not None or checkpoint is not None:
        raise ConfigError("--all means every checkpoint: it goes with neither --model_name nor --checkpoint")
    return source or CHECKPOINTS


@contextmanager
def _progress() -> "Iterator[Callable[[str], Progress | None]]":
    """A bar for each checkpoint, in its turn."""
    from mypt_dist.cli.progress import byte_progress

    with ExitStack() as bars:

        def progress_of(name: str) -> "Progress":
            bars.close()
            return bars.enter_context(byte_progress(f"converting {name}"))

        yield progress_of


def _print(reports: "list[Report]") -> None:
    rows = [
        [
            report.name,
            report.status,
            report.generation or "-",
            f"{report.step:,}" if report.generation else "-",
            f"{report.parameters:,}" if report.generation else "-",
            " ".join(f"{count} {dtype}" for dtype, count in sorted((report.dtypes or {}).items())) or "-",
            report.optimizer or "-",
            report.out,
        ]
        for report in reports
    ]
    print_table(["checkpoint", "", "from", "step", "parameters", "tensors", "optimizer", "to"], rows)
    for report in reports:
        if report.tokenizer:
            print(f"{report.name}: tokenizer {report.tokenizer}")
        for note in report.notes:
            print(f"{report.name}: {note}")
        if report.problem:
            print(f"{report.name}: {report.problem}")
