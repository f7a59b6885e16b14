"""Environment variables that contradict each other, the run file, or what the user means."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from mypt_dist.errors import ConfigError
from mypt_dist.launch.environment import refuse_contradictions, topology_from_environ
from mypt_dist.launch.topology import EXPECTED_RANKS
from mypt_dist.run.doctor.check import Check, Result, fail, ok, skip, warn

OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""A launcher sets all of them."""

SLOWING = {
    "CUDA_LAUNCH_BLOCKING": "every kernel is waited for",
    "TORCH_DISTRIBUTED_DEBUG": "every collective is checked",
    "NCCL_P2P_DISABLE": "GPUs of a machine talk through its memory",
    "NCCL_SHM_DISABLE": "GPUs of a machine talk over the network",
    "NCCL_IB_DISABLE": "machines talk over TCP",
}
"""What they do when set to anything but 0, OFF or nothing."""


def rank_variables(environ: Mapping[str, str]) -> Result:
    """Whether a launcher set all of a rank's variables, and whether they make sense."""
    present = [name for name in OF_A_RANK if environ.get(name)]
    if not present:
        return ok("none are set: one process")
    missing = [name for name in OF_A_RANK if name not in present]
    advice = f"unset {' '.join(present)}, or start with mypt launch"
    if missing:
        return fail(f"{', '.join(present)} without {', '.join(missing)}", advice)
    numbers = {name: environ[name] for name in OF_A_RANK if name != "MASTER_ADDR"}
    wrong = [f"{name}={value}" for name, value in numbers.items() if not value.isdigit()]
    if wrong:
        return fail(f"not a number: {', '.join(wrong)}", advice)
    rank, ranks = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    if rank >= ranks:
        return fail(f"RANK={rank} of WORLD_SIZE={ranks}", advice)
    promised = environ.get(EXPECTED_RANKS)
    if promised and promised != str(ranks):
        return fail(
            f"{EXPECTED_RANKS}={promised}, WORLD_SIZE={ranks}", f"unset {EXPECTED_RANKS}, or start with mypt launch"
        )
    return ok(f"rank {rank} of {ranks}")


def mathematics(environ: Mapping[str, str], precision: str) -> Result:
    """Whether the launcher asks for what is not supported, or for what is the run file's to say."""
    try:
        refuse_contradictions(precision, environ)
        topology = topology_from_environ(environ)
    except ConfigError as error:
        return fail(str(error), "change the launch file, or unset the variable")
    return ok(f"{topology.engine} on {topology.ranks} ranks")


def slowing(environ: Mapping[str, str]) -> Result:
    """Variables that are left over from a search for an error."""
    left = [
        f"{name}={environ[name]}: {what}"
        for name, what in SLOWING.items()
        if environ.get(name, "0").upper() not in ("", "0", "OFF", "INFO")
    ]
    if left:
        return warn("; ".join(left), "unset them, unless this machine needs them")
    return ok("none")


def proxies(environ: Mapping[str, str], uri: str | None) -> Result:
    """Whether requests to the tracker at ``uri`` would go through a proxy."""
    if uri is None or urlsplit(uri).scheme not in ("http", "https"):
        return skip("no tracker behind a network")
    scheme, host = urlsplit(uri).scheme, urlsplit(uri).hostname or ""
    name = f"{scheme}_proxy"
    proxy = environ.get(name) or environ.get(name.upper())
    if not proxy:
        return ok("none")
    exempt = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    if any(entry.strip() and (entry.strip() == "*" or host.endswith(entry.strip().lstrip("*"))) for entry in exempt):
        return ok(f"{host} is exempt")
    return warn(f"{name} is set, and {host} is not in no_proxy", f"no_proxy={host}, if it is in your own network")


def variable_checks(environ: Mapping[str, str], precision: str, uri: str | None) -> list[Check]:
    """``precision`` as in the run file; ``uri`` of its MLflow tracker, None without one."""
    return [
        Check("rank variables", "ranks that wait for others forever", lambda: rank_variables(environ)),
        Check(
            "launch variables", "a launch file that changes what is learned", lambda: mathematics(environ, precision)
        ),
        Check("debug variables", "a run at a fraction of its speed", lambda: slowing(environ)),
        Check("proxies", "metrics that never reach the tracker", lambda: proxies(environ, uri)),
    ]
