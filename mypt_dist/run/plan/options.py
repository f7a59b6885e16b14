"""What would make a run fit: the same mathematics with less memory, each way with its own forecast."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mypt_dist.errors import ConfigError
from mypt_dist.launch import EngineName, Topology
from mypt_dist.run.plan.forecast import Forecast, Forecaster, Way
from mypt_dist.training.config import divisors

FULL = 0.97
"""Of a GPU's memory. What is forecast to take more is refused: forecasts and allocators are not that exact."""

MORE_RANKS = (2, 4, 8, 16, 32, 64)

ORDER: tuple[EngineName, ...] = ("zero1", "zero2", "fsdp2", "zero3")
"""Engines by how much they share."""


@dataclass(frozen=True, slots=True)
class Option:
    """A way to need less."""

    change: str
    """What to set or to launch, as the command line says it."""
    forecast: Forecast

    def fits(self, memory: int) -> bool:
        return self.forecast.total <= FULL * memory


def options(forecaster: Forecaster, way: Way, memory: int, batch_size: int) -> list[Option]:
    """Ways to need less, the least intrusive first; of each kind the first that fits ``memory``, or the last.

    What would need more is left out.
    """
    now = forecaster(way).total
    kinds = [
        _smaller(way),
        [] if way.checkpointing else _recomputing(way),
        _sharing(way, batch_size),
        _offloading(way),
    ]
    found = []
    for kind in kinds:
        tried = list(_until_fitting(forecaster, kind, memory))
        if tried and tried[-1].forecast.total < now:
            found.append(tried[-1])
    return found


def _until_fitting(forecaster: Forecaster, kind: list[tuple[str, Way]], memory: int) -> Iterator[Option]:
    for change, way in kind:
        try:
            option = Option(change, forecaster(way))
        except ConfigError:
            continue
        yield option
        if option.fits(memory):
            return


def _smaller(way: Way) -> list[tuple[str, Way]]:
    share = way.micro_batch * way.micro_batches
    sizes = [size for size in reversed(divisors(share)) if size < way.micro_batch]
    return [
        (f"train.micro_batch={size}", replace(way, micro_batch=size, micro_batches=share // size)) for size in sizes
    ]


def _recomputing(way: Way) -> list[tuple[str, Way]]:
    again = replace(way, checkpointing=True)
    setting = "model.activation_checkpointing=true"
    return [(setting, again), *((f"{change} {setting}", smaller) for change, smaller in _smaller(again))]


def _sharing(way: Way, batch_size: int) -> list[tuple[str, Way]]:
    topology = way.topology
    if topology.ranks == 1:
        counts = [count for count in MORE_RANKS if batch_size % count == 0]
        return [(f"--target fsdp2 --ranks {count}", _on_ranks(way, count, batch_size)) for count in counts]
    later = ORDER if topology.engine in ("single", "ddp") else ORDER[ORDER.index(_kind(topology)) + 1 :]
    return [(f"--target {name}", replace(way, topology=Topology(name, topology.ranks))) for name in later]


def _kind(topology: Topology) -> EngineName:
    return "fsdp2" if topology.engine == "hsdp" else topology.engine


def _on_ranks(way: Way, ranks: int, batch_size: int) -> Way:
    share = batch_size // ranks
    micro_batch = max(size for size in divisors(share) if size <= way.micro_batch)
    return replace(way, topology=Topology("fsdp2", ranks), micro_batch=micro_batch, micro_batches=share // micro_batch)


def _offloading(way: Way) -> list[tuple[str, Way]]:
    topology = way.topology
    if topology.offload_parameters:
        return []
    ranks = topology.ranks
    return [
        ("--target zero2-offload", replace(way, topology=Topology("zero2", ranks, offload_optimizer=True))),
        (
            "--target zero3-offload",
            replace(way, topology=Topology("zero3", ranks, offload_optimizer=True, offload_parameters=True)),
        ),
        (
            "--target fsdp2-offload",
            replace(way, topology=Topology("fsdp2", ranks, offload_optimizer=True, offload_parameters=True)),
        ),
    ]
