"""A plan as text: tables of bytes, a bar for each part, sentences for the rest."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypt_dist.run.plan.batches import SourceAmount
    from mypt_dist.run.plan.report import Plan

WIDTH = 40
"""Characters of the longest bar."""

EIGHTHS = " ▏▎▍▌▋▊▉"


def plan_lines(plan: "Plan") -> Iterator[str]:
    """The whole plan, line by line."""
    topology, device = plan.forecast.way.topology, plan.forecast.device
    ranks = _count(topology.ranks, f"{device.upper()} rank")
    frozen = f" ({plan.frozen:,} frozen)" if plan.frozen else ""
    yield f"{plan.name}: {plan.parameters:,} parameters{frozen}, {plan.precision}, {topology.engine} on {ranks}"
    yield ""
    yield from _states(plan)
    yield ""
    yield from _fullest_moment(plan)
    yield ""
    yield from _run(plan)
    if plan.options:
        yield ""
        yield from _options(plan)
    yield from (f"note: {remark}" for remark in plan.remarks)


def bar(share: float, width: int = WIDTH) -> str:
    """``share`` of a full bar, to an eighth of a character."""
    eighths = round(share * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "")


def duration(seconds: float) -> str:
    """As hours, minutes and seconds, after the days if there are any."""
    return str(timedelta(seconds=round(seconds)))


def _states(plan: "Plan") -> Iterator[str]:
    device, host = plan.forecast.states.device, plan.forecast.states.host
    names = {
        "weights": "weights",
        "masters": "master weights",
        "gradients": "gradients",
        "optimizer": "optimizer state",
    }
    yield f"{'a rank keeps, bytes':<24}{plan.forecast.device.upper():>18}{'host':>18}"
    for key, name in names.items():
        yield f"{name:<24}{getattr(device, key):>18,}{getattr(host, key):>18,}"
    yield f"{'sum':<24}{device.total:>18,}{host.total:>18,}"


def _fullest_moment(plan: "Plan") -> Iterator[str]:
    forecast, need = plan.forecast, plan.forecast.need
    parts = {
        "weights": need.weights,
        "master weights": need.masters,
        "gradients": need.gradients,
        "optimizer state": need.optimizer,
        "activations": need.activations,
        "gathered weights": need.gathered,
        "communication": need.buffers,
        "offloaded": forecast.host if forecast.device == "cpu" else 0,
        "besides tensors": forecast.process,
    }
    unit, name = (1 << 30, "GiB") if forecast.total >= 4 << 30 else (1 << 20, "MiB")
    yield f"{'fullest moment, ' + name:<24}{need.when}"
    longest = max(parts.values())
    for part, size in parts.items():
        if size:
            yield f"{part:<24}{size / unit:>10,.2f}  {bar(size / longest)}"
    yield f"{'sum':<24}{forecast.total / unit:>10,.2f}  {_verdict(plan, unit, name)}".rstrip()
    if plan.copies:
        yield f"  activations include {plan.copies / unit:,.2f} {name} of 16-bit copies of weights"
    yield f"  the loss sees {plan.chunk_tokens:,} tokens at a time: {plan.chunk_bytes / unit:,.2f} {name} of logits"
    for buffer, size in plan.buffers.items():
        yield f"  {buffer}: {size / unit:,.2f} {name}"
    if forecast.host and forecast.device == "gpu":
        yield f"  in host memory: {forecast.host / unit:,.2f} {name}"


def _verdict(plan: "Plan", unit: int, name: str) -> str:
    if plan.memory is None or plan.share is None:
        return ""
    return f"{plan.share:.0%} of {plan.memory / unit:,.2f} {name}: {'fits' if plan.fits else 'does not fit'}"


def _run(plan: "Plan") -> Iterator[str]:
    run = plan.batches
    shared = f"{_count(run.ranks, 'rank')} x {_count(run.accumulation, 'pass', 'passes')} x {run.micro_batch}"
    yield f"batch         {run.batch_size:,} windows of {run.context:,} tokens = {shared}"
    yield f"tokens        {run.tokens_per_step:,} a step, {run.total_tokens:,} in {run.steps:,} steps"
    yield f"computation   {run.flops_per_step:.3g} FLOPs a step, {run.total_flops:.3g} in all"
    for source in run.sources:
        yield f"{'source ' + source.name:<14}{_epochs(source)}"
    if plan.tokens_per_second is not None and plan.seconds is not None:
        yield f"time          {duration(plan.seconds)} at {plan.tokens_per_second:,.0f} tokens a second"


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _epochs(source: "SourceAmount") -> str:
    if source.tokens is None or source.epochs is None:
        return f"{source.samples:,} windows, epochs unknown"
    return f"{source.samples:,} windows, {source.epochs:.2f} epochs of {source.tokens:,} tokens"


def _options(plan: "Plan") -> Iterator[str]:
    assert plan.memory is not None, "without a limit everything fits"
    yield "what would change that                                            GiB"
    for option in plan.options:
        total = option.forecast.total / 2**30
        yield f"  {option.change:<58}{total:>9,.2f}  {'fits' if option.fits(plan.memory) else 'does not fit'}"
