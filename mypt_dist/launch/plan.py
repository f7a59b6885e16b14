"""A launch file at a place: how many ranks on how many machines, and whether that agrees with the file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mypt_dist.errors import ConfigError
from mypt_dist.launch.files import LaunchFile
from mypt_dist.launch.topology import Topology

PORT = 29500
"""On which the machines meet, unless told otherwise: torchrun's own."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the command line says instead of the launch file. Null: what the file says."""

    ranks: int | None = None
    """Over all machines."""
    replicas: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    address: str | None = None
    port: int | None = None
    cpu: bool = False
    """Compute on CPUs, whatever the file says."""
    deadline: bool = False
    """Whether a scheduler kills what has not ended soon after it was asked to."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that has to be known before ranks can be started on one machine."""

    file: LaunchFile
    topology: Topology
    nodes: int
    node_rank: int
    address: str | None
    """Of node 0; null on a single machine."""
    port: int
    """0: any free one."""
    cpu: bool
    deadline: bool = False
    """As in `Place`."""

    @property
    def ranks_per_node(self) -> int:
        return self.topology.ranks // self.nodes


def plan(file: LaunchFile, place: Place) -> Launch:
    """Put a launch file and the command line together. Raises one `ConfigError` that lists every contradiction."""
    settings = file.settings
    nodes = place.nodes or settings.num_machines
    ranks = place.ranks or max(settings.num_processes, 0)
    node_rank = settings.machine_rank if place.node_rank is None else place.node_rank
    address = place.address or settings.main_process_ip
    port = settings.main_process_port if place.port is None else place.port
    if port is None:
        port = PORT if nodes > 1 else 0
    _refuse(file, _missing(file, ranks, nodes, node_rank, address))
    launch = Launch(
        file=file,
        topology=file.topology(ranks, place.replicas),
        nodes=nodes,
        node_rank=node_rank or 0,
        address=address if nodes > 1 else None,
        port=port,
        cpu=place.cpu or settings.use_cpu,
        deadline=place.deadline,
    )
    _refuse(file, [*_contradictions(launch), *_uneven_mesh(launch, place)])
    return launch


def _refuse(file: LaunchFile, problems: Iterable[str]) -> None:
    lines = [f"  {problem}" for problem in problems]
    if lines:
        raise ConfigError("\n".join([f"{file.name} cannot be launched like this:", *lines]))


def _missing(file: LaunchFile, ranks: int, nodes: int, node_rank: int | None, address: str | None) -> Iterator[str]:
    if not ranks:
        over = f" over all {nodes} machines" if nodes > 1 else ""
        yield f"{file.path.name} leaves the number of ranks to you: add --ranks N, the number of GPUs{over}"
    if nodes > 1 and node_rank is None:
        yield f"{nodes} machines: add --node-rank K, from 0 to {nodes - 1} and another on each machine"
    if nodes > 1 and address is None:
        yield f"{nodes} machines: add --address HOST, by which all of them reach the one with --node-rank 0"


def _contradictions(launch: Launch) -> Iterator[str]:
    file, ranks, nodes = launch.file, launch.topology.ranks, launch.nodes
    if file.engine == "single" and ranks > 1:
        yield f"distributed_type 'NO' is one process, but there are {ranks} ranks: use ddp, fsdp2 or zero3"
    if ranks % nodes:
        yield f"{ranks} ranks cannot be shared by {nodes} machines: use a multiple of {nodes} ranks"
    if not 0 <= launch.node_rank < nodes:
        yield f"--node-rank {launch.node_rank} of {nodes} machines: use 0 to {nodes - 1}"
    gpus = (file.settings.gpu_ids or "all").split(",")
    if gpus != ["all"] and not launch.cpu and len(gpus) != launch.ranks_per_node:
        yield f"gpu_ids names {len(gpus)} GPUs, but this machine has {launch.ranks_per_node} ranks"
    if launch.cpu and launch.topology.is_fsdp and launch.topology.offload_parameters:
        yield "on CPUs there is nothing to offload from: use fsdp2, or fsdp_offload_params: false"


def _uneven_mesh(launch: Launch, place: Place) -> Iterator[str]:
    mesh, ranks, replicas = launch.file.settings.parallelism_config, launch.topology.ranks, launch.topology.replicas
    if mesh is None:
        if place.replicas is not None:
            yield f"--replicas {place.replicas}: {launch.file.path.name} keeps one copy of the sharded state; use hsdp"
        return
    shards = ranks // replicas if place.replicas else mesh.parallelism_config_dp_shard_size
    if replicas * shards != ranks:
        yield (
            f"{replicas} replicas of {shards} shards are {replicas * shards} ranks, but there are {ranks}: add "
            f"--replicas N that divides {ranks}, usually the number of machines ({launch.nodes})"
        )
