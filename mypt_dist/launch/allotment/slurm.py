"""Slurm: one task on each node, started by srun. Variables as in srun(1), of the step where it has its own."""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeAlias

from mypt_dist.errors import ConfigError
from mypt_dist.launch.allotment.told import Allotment, Told, number, word

FirstName: TypeAlias = Callable[[str], str]
"""From a node list such as ``gpu[07-09,12]`` to its first name."""

FIRST_PORT, PORTS = 20_000, 10_000
"""Below the range from which Linux takes ports for outgoing connections (32768 and up)."""

ASKING_S = 10


def slurm(environ: Mapping[str, str], first: FirstName) -> Allotment:
    """What Slurm told this task. Raises `ConfigError` where it is not the only one on its node, or none at all."""
    nodes = number(environ, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    in_step = "SLURM_STEP_ID" in environ
    if nodes is not None and nodes.value > 1 and not in_step:
        raise ConfigError(
            f"this is one process of a job on {nodes.value} nodes ({nodes.source}), and each node needs one: write "
            "srun --ntasks-per-node=1 mypt launch ...; or give --plain to use this machine alone"
        )
    tasks = number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if in_step else None
    if nodes is not None and tasks is not None and tasks.value != nodes.value:
        raise ConfigError(
            f"{tasks.value} tasks ({tasks.source}) on {nodes.value} nodes ({nodes.source}): mypt launch starts the "
            "ranks of a node by itself, so give each node one task, with srun --ntasks-per-node=1"
        )
    return Allotment(
        scheduler="slurm",
        nodes=nodes,
        node_rank=number(environ, "SLURM_NODEID"),
        gpus_per_node=number(environ, "SLURM_GPUS_ON_NODE"),
        address=_head(environ, first) if nodes is not None and nodes.value > 1 else None,
        port=_port(environ),
    )


def _head(environ: Mapping[str, str], first: FirstName) -> Told[str] | None:
    nodes = word(environ, "SLURM_STEP_NODELIST") or word(environ, "SLURM_JOB_NODELIST")
    return Told(first(nodes.value), nodes.source) if nodes else None


def _port(environ: Mapping[str, str]) -> Told[int] | None:
    """Another for each job, since jobs may share a node."""
    job = number(environ, "SLURM_JOB_ID")
    return Told(FIRST_PORT + job.value % PORTS, job.source) if job else None


def first_node(nodes: str) -> str:
    """The first of a node list, by Slurm's own tool where it is installed: a container may lack it."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "show", "hostnames", nodes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASKING_S, check=True)
        if names := done.stdout.split():
            return names[0]
    return next(node_names(nodes), nodes)


def node_names(nodes: str) -> Iterator[str]:
    """Expand ``a[1-2,04],b`` to a1, a2, a04, b, in Slurm's order. Raises `ConfigError` for anything else."""
    # Commas outside of brackets.
    for entry in re.split(r",(?![^\[]*\])", nodes):
        if not re.fullmatch(r"[\w.-]+|[\w.-]*(\[\d+(-\d+)?(,\d+(-\d+)?)*\][\w.-]*)+", entry):
            raise ConfigError(f"{nodes!r} is not a Slurm node list such as gpu[1-3,7]; give --address HOST")
        yield from _expanded(entry)


def _expanded(entry: str) -> Iterator[str]:
    before, bracket, rest = entry.partition("[")
    if not bracket:
        yield entry
        return
    ranges, _, after = rest.partition("]")
    for span in ranges.split(","):
        low, _, high = span.partition("-")
        for value in range(int(low), int(high or low) + 1):
            for ending in _expanded(after):
                yield f"{before}{value:0{len(low)}}{ending}"
