"""The command line and what a scheduler told: put together, or refused with both values."""

from collections.abc import Iterator
from dataclasses import replace

from mypt_dist.errors import ConfigError
from mypt_dist.launch.allotment.told import Allotment, Told
from mypt_dist.launch.files import LaunchFile
from mypt_dist.launch.plan import Place


def settle(file: LaunchFile, place: Place, told: Allotment) -> Place:
    """``place`` with what is left open filled in from ``told``, which wins over the launch file.

    Numbers are facts: raises one `ConfigError` for all that differ. By which name and port nodes meet is a choice,
    and the command line's wins.
    """
    nodes = place.nodes or _value(told.nodes) or file.settings.num_machines
    # Jobs of a sweep have an index each, and are alone.
    node_rank = told.node_rank if nodes > 1 else None
    per_node = told.ranks_per_node or (None if place.cpu or file.settings.use_cpu else told.gpus_per_node)
    # A node without GPUs says 0.
    ranks = nodes * per_node.value or None if per_node else None
    problems = [*_differs("nodes", place.nodes, told.nodes), *_differs("node-rank", place.node_rank, node_rank)]
    if ranks and not problems and place.ranks not in (None, ranks):
        problems.append(f"--ranks {place.ranks}, but {per_node} on each of {told.nodes or nodes} nodes make {ranks}")
    if problems:
        lines = [f"  {problem}" for problem in problems]
        advice = "leave these options out, or give --plain and all of them to ignore what was allotted"
        raise ConfigError("\n".join([f"the command contradicts the {told.scheduler} allotment:", *lines, advice]))
    return replace(
        place,
        ranks=place.ranks or ranks,
        nodes=place.nodes or _value(told.nodes),
        node_rank=_value(node_rank) if place.node_rank is None else place.node_rank,
        address=place.address or (told.address.value if told.address else None),
        port=_port(place, told, nodes),
        deadline=told.scheduler != "plain",
    )


def _port(place: Place, told: Allotment, nodes: int) -> int | None:
    """One machine takes any free port, whatever was told."""
    return place.port if place.port is not None or nodes == 1 else _value(told.port)


def _differs(option: str, given: int | None, told: Told[int] | None) -> Iterator[str]:
    if given is not None and told is not None and given != told.value:
        yield f"--{option} {given}, but it is {told}"


def _value(told: Told[int] | None) -> int | None:
    return told.value if told else None
