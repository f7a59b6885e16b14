"""``mypt plan``: what a run needs and how long it takes, before anything is started."""

from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json
from mypt_dist.cli.train import Overrides, RunFile

if TYPE_CHECKING:
    from mypt_dist.launch import Topology
    from mypt_dist.run.plan.forecast import Device
    from mypt_dist.run.plan.report import Plan
    from mypt_dist.run.plan.states import ZeroSettings


def plan(
    run_file: RunFile,
    overrides: Overrides = None,
    target: Annotated[
        str | None, typer.Option(metavar="TARGET", help="As of mypt launch. Default: one process.", show_default=False)
    ] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes over all machines: one for each GPU.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="hsdp: copies of the sharded state.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Computing on CPUs, whatever the target says.")] = False,
    memory: Annotated[
        float | None, typer.Option(metavar="GIB", help="Of one GPU: exit 2 if that is too little.")
    ] = None,
    tokens_per_second: Annotated[float | None, typer.Option(metavar="N", help="Of all ranks, as measured.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="For the time instead: H100, A100, ...")] = None,
    mfu: Annotated[float, typer.Option(metavar="SHARE", help="... at this share of the GPU's peak.")] = 0.4,
    as_json: JsonOption = False,
) -> None:
    """Tell what a run needs in memory, how its batch is dealt out, and how long it takes, without starting it.

    The model's own code runs on tensors without data: nothing is allocated, and no dataset is opened.
    """
    from mypt_dist.run.config import RunConfig

    config = RunConfig.load(run_file, overrides or [])
    topology, zero, on_cpu = _launched(target, ranks, replicas, cpu)
    peak = peak_flops(gpu)
    device: Device = (
        "cpu" if on_cpu or (target is None and memory is None and gpu is None and not _has_gpu()) else "gpu"
    )

    from mypt_dist.run.plan.report import Machine, plan_run

    machine = Machine(
        device=device,
        base=resident_base(topology) if device == "cpu" else 0,
        memory=None if memory is None else round(memory * 2**30),
        tokens_per_second=tokens_per_second,
        peak_flops=peak,
        utilisation=mfu,
    )
    made = plan_run(config, topology, machine, zero)
    if as_json:
        print_json(made.to_json())
    else:
        from mypt_dist.cli.plan_view import plan_lines

        print("\n".join(plan_lines(made)))
    _refuse_too_much(made)


def _launched(
    target: str | None, ranks: int | None, replicas: int | None, cpu: bool
) -> tuple["Topology", "ZeroSettings", bool]:
    """How the target shares the model, ZeRO's settings, and whether it computes on CPUs."""
    from mypt_dist.launch import Topology
    from mypt_dist.launch.files import read_launch_file
    from mypt_dist.launch.plan import Place
    from mypt_dist.launch.plan import plan as put_together
    from mypt_dist.run.plan.states import ZeroSettings

    if target is None:
        count = ranks or 1
        return Topology("ddp" if count > 1 else "single", count), ZeroSettings(), cpu
    # Which of the machines this is and where the first one is makes no difference to a plan.
    file = read_launch_file(target)
    launch = put_together(file, Place(ranks=ranks, replicas=replicas, node_rank=0, address="-", cpu=cpu))
    section = file.deepspeed.zero_optimization if file.deepspeed else None
    return launch.topology, ZeroSettings.of(section), launch.cpu


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def resident_base(topology: "Topology") -> int:
    """Resident bytes of a process that has loaded what training loads. This one has, then."""
    import mypt_dist.engine
    from mypt_dist.run.plan.process import DEEPSPEED, resident

    assert mypt_dist.engine, "imported for what it loads"
    return resident() + (DEEPSPEED if topology.zero_stage else 0)


def peak_flops(gpu: str | None) -> float | None:
    """FLOP/s of a GPU by its name. Raises `ConfigError` for one that is not in the table."""
    from mypt_dist.errors import ConfigError
    from mypt_dist.training.throughput import PEAK_BF16_TFLOPS

    if gpu is None:
        return None
    for known, tflops in PEAK_BF16_TFLOPS.items():
        if known.lower() == gpu.lower():
            return tflops * 1e12
    raise ConfigError(f"--gpu {gpu} is not in the table: one of {', '.join(PEAK_BF16_TFLOPS)}, or --tokens-per-second")


def _refuse_too_much(made: "Plan") -> None:
    from mypt_dist.errors import ConfigError

    if made.fits is False and made.memory is not None:
        need, have = made.forecast.total / 2**30, made.memory / 2**30
        ways = [option.change for option in made.options if option.fits(made.memory)]
        how = f"would fit: {'; '.join(ways)}" if ways else "nothing tried would fit: use more ranks or a smaller model"
        raise ConfigError(f"a rank needs {need:,.2f} GiB of {have:,.2f} GiB ({made.share:.0%}); {how}")
