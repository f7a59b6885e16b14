"""``mypt memory``: what a model needs to be trained and to generate, on many machines at once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from mypt_dist.cli.tables import JsonOption, print_json, table_lines
from mypt_dist.cli.train import Overrides

if TYPE_CHECKING:
    from mypt_dist.launch import EngineName
    from mypt_dist.run.plan.forecast import Forecast
    from mypt_dist.run.plan.inference import Inference
    from mypt_dist.run.plan.table import Memory, Training


def memory(
    run_file: Annotated[str, typer.Argument(metavar="RUNFILE", help="A run file or a preset, such as 150m.")],
    overrides: Overrides = None,
    ranks: Annotated[str, typer.Option(metavar="N,N...", help="Numbers of ranks.")] = "1,2,4,8",
    engine: Annotated[
        list[str], typer.Option("--engine", metavar="NAME", help="Only this one of several ranks (repeatable).")
    ] = [],  # noqa: B006 - typer copies it
    batch: Annotated[str, typer.Option(metavar="N,N...", help="Generating: rows at once.")] = "1,8",
    tokens: Annotated[
        str | None, typer.Option(metavar="N,N...", help="Generating: length of a row. Default: the context.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Of processes on CPUs. Default: of GPUs.")] = False,
    limit: Annotated[float | None, typer.Option("--memory", metavar="GIB", help="Of one GPU: mark what fits.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a rank needs in training, by engine and number of ranks, and what generating needs, by rows and length.

    The model's own code runs on tensors without data. mypt plan tells more of one way to train.
    """
    from mypt_dist.cli.plan import resident_base
    from mypt_dist.launch import Topology
    from mypt_dist.run.plan.table import SHARING, Asked, memory_table

    asked = Asked(
        engines=_engines(engine) or SHARING,
        ranks=_numbers("--ranks", ranks),
        batches=_numbers("--batch", batch),
        tokens=_numbers("--tokens", tokens) if tokens else (),
        device="cpu" if cpu else "gpu",
        base=resident_base(Topology()) if cpu else 0,
    )
    made = memory_table(run_file, overrides or [], asked)
    if as_json:
        print_json(made.to_json())
    else:
        print("\n".join(_lines(made, limit)))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from mypt_dist.errors import ConfigError

    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} {text}: give whole numbers above 0 with commas between them, such as 1,2,8")
    return tuple(map(int, parts))


def _engines(names: list[str]) -> "tuple[EngineName, ...]":
    from mypt_dist.errors import ConfigError
    from mypt_dist.launch import EngineName

    known = [name for name in get_args(EngineName) if name not in ("single", "hsdp")]
    for name in names:
        if name not in known:
            raise ConfigError(f"--engine {name}: one of {', '.join(known)}; hsdp needs replicas: see mypt plan")
    return tuple(name for name in get_args(EngineName) if name in names)


def _lines(made: "Memory", limit: float | None) -> Iterator[str]:
    unit, called = (1 << 30, "GiB") if made.device == "gpu" else (1 << 20, "MiB")
    yield (
        f"{made.name}: {made.parameters:,} parameters (vocabulary from {made.vocabulary}), {made.precision}, "
        f"batches of {made.batch_size} windows of {made.context:,} tokens"
    )
    yield ""
    yield f"training, {called} of one {made.device.upper()} rank at its fullest moment"
    parts = ["weights", "gradients", "optimizer", "activations", "gathered, sent", "besides", "sum"]
    rows = [_training(one, one.forecast, unit, limit) for one in made.training if one.forecast]
    header = ["engine", "ranks", "windows", "passes", *parts]
    yield from table_lines([*header, "fits"] if limit else header, rows)
    yield from dict.fromkeys(one.refusal for one in made.training if one.refusal)
    yield ""
    yield f"generating, {called}"
    header = ["type", "rows", "tokens", "weights", "cache", "activations", "besides", "sum"]
    yield from table_lines(
        [*header, "fits"] if limit else header, [_generating(one, unit, limit) for one in made.generating]
    )
    if made.device == "gpu":
        yield "CUDA's context, NCCL and the allocator's cache are assumed, not measured: see docs/how-to/plan.md"


def _training(one: "Training", forecast: "Forecast", unit: int, limit: float | None) -> list[str]:
    need = forecast.need
    on_host = forecast.host if forecast.device == "cpu" else 0
    parts = (
        need.weights + need.masters,
        need.gradients,
        need.optimizer + on_host,
        need.activations,
        need.gathered + need.buffers,
        forecast.process,
        forecast.total,
    )
    row = [one.engine, str(one.ranks), str(forecast.way.micro_batch), str(forecast.way.micro_batches)]
    return [*row, *(f"{size / unit:,.2f}" for size in parts), *_fits(forecast.total, limit)]


def _generating(one: "Inference", unit: int, limit: float | None) -> list[str]:
    parts = (one.weights, one.cache, one.activations, one.process, one.total)
    row = ["16-bit" if one.half else "fp32", str(one.batch), str(one.tokens)]
    return [*row, *(f"{size / unit:,.2f}" for size in parts), *_fits(one.total, limit)]


def _fits(total: int, limit: float | None) -> list[str]:
    from mypt_dist.run.plan.options import FULL

    if limit is None:
        return []
    return ["yes" if total <= FULL * limit * 2**30 else "no"]
