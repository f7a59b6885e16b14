"""Does the launch file agree with the run file, the command line and the environment?"""

from collections.abc import Iterator
from dataclasses import replace

from mypt_dist.config.presets import folder
from mypt_dist.errors import ConfigError
from mypt_dist.launch import Topology
from mypt_dist.launch.environment import refuse_contradictions
from mypt_dist.launch.files import LaunchFile, read_launch_file
from mypt_dist.launch.plan import Place, plan
from mypt_dist.launch.topology import EXPECTED_RANKS
from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.findings import Finding, split_message

OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each process, all of it or nothing."""


def launch_file(case: Case) -> Iterator[Finding]:
    """A launch file that owns mathematics, asks for what is not supported, or is no launch file."""
    try:
        read_launch_file(case.target)
    except ConfigError as error:
        lines = str(error).splitlines()
        told = [line.strip() for line in lines if line.startswith(" ")] or lines
        for line in told:
            found, remedy = split_message(line, "mypt launch --list shows the targets")
            yield Finding(case.target, found, "the launch is refused, or would change what is learned", remedy)


def launch_place(case: Case) -> Iterator[Finding]:
    """Ranks, nodes, replicas and node ranks that contradict each other or the launch file."""
    file = _file(case)
    if file is None:
        return
    try:
        plan(file, _complete(case))
    except ConfigError as error:
        for line in str(error).splitlines()[1:]:
            found, remedy = split_message(line, "see docs/how-to/launch.md")
            yield Finding(str(file.path.name), found, "the ranks cannot be laid out like this", remedy)


def launch_world(case: Case) -> Iterator[Finding]:
    """A launch file of your own that says another number of ranks or machines than the command line."""
    file = _file(case)
    if file is None or folder("launch") in file.path.resolve().parents:
        return
    said = {"num_processes": file.settings.num_processes, "num_machines": file.settings.num_machines}
    meant = {"num_processes": case.ranks, "num_machines": case.nodes}
    for key, value in said.items():
        if value not in (-1, meant[key]) and not (key == "num_machines" and value == 1):
            yield Finding(
                f"{file.path.name}: {key}",
                f"the file says {value}, this rehearsal {meant[key]}",
                "whoever launches without the options gets another world than was rehearsed",
                f"{key}: {meant[key]} in the file, or -1 for num_processes and the options on every launch",
                "warning",
            )


def rank_variables(case: Case) -> Iterator[Finding]:
    """Variables of a rank that are half set in the environment."""
    present = [name for name in OF_A_RANK if name in case.around.environ]
    if present:
        missing = [name for name in OF_A_RANK if name not in present]
        state = f"without {', '.join(missing)}" if missing else "outside of a launcher"
        yield Finding(
            "environment",
            f"{', '.join(present)} set {state}",
            "a process takes itself for a rank of a world that is not there: it waits, or says nothing",
            f"unset {' '.join(present)}",
        )


def environment_settings(case: Case) -> Iterator[Finding]:
    """Variables of Accelerate or of an earlier launch that would overrule the run file."""
    environ = case.around.environ
    try:
        refuse_contradictions(case.config.train.precision, environ)
    except ConfigError as error:
        for line in str(error).splitlines()[1:]:
            found, remedy = split_message(line, "unset it")
            yield Finding("environment", found, "they outrank the run file in every rank", f"unset it, or {remedy}")
    if environ.get(EXPECTED_RANKS, str(case.ranks)) != str(case.ranks):
        yield Finding(
            "environment",
            f"{EXPECTED_RANKS}={environ[EXPECTED_RANKS]}, but there are {case.ranks} ranks",
            "every start is refused as one of too few or too many ranks",
            f"unset {EXPECTED_RANKS}",
        )


def port(case: Case) -> Iterator[Finding]:
    """A port of the launch that something else listens on."""
    if case.around.port_taken:
        yield Finding(
            "--port",
            case.around.port_taken,
            "node 0 cannot open the meeting point, and the others wait for it until they give up",
            "another --port on every node, or end the run that holds it",
        )


def address(case: Case) -> Iterator[Finding]:
    """An address of node 0 that cannot be resolved."""
    if case.around.unresolved:
        yield Finding(
            "--address",
            case.around.unresolved,
            "no node finds the meeting point: all wait until they give up",
            "a name that every node resolves (getent hosts NAME), or the number",
        )


def topology_of(case: Case) -> Topology | None:
    """How the target shares the model; null where it cannot be launched like this."""
    file = _file(case)
    try:
        return plan(file, _complete(case)).topology if file else None
    except ConfigError:
        return None


def _file(case: Case) -> LaunchFile | None:
    try:
        return read_launch_file(case.target)
    except ConfigError:
        return None


def _complete(case: Case) -> Place:
    """Which node this is and where the first one is makes no difference to what is checked here."""
    place = case.place
    rank = 0 if place.node_rank is None else place.node_rank
    return replace(place, nodes=case.nodes, node_rank=rank, address=place.address or "-")


CHECKS = (launch_file, launch_place, launch_world, rank_variables, environment_settings, port, address)
