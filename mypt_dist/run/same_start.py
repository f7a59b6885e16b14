"""Are all ranks about to train the same run? Asked once, before anything is written."""

from collections.abc import Mapping
from dataclasses import asdict

from mypt_dist.errors import ConfigError
from mypt_dist.launch.topology import Topology
from mypt_dist.run.config import RunConfig
from mypt_dist.run.data import RunData
from mypt_dist.run.provenance import code_version
from mypt_dist.run.resume import flatten
from mypt_dist.world import JSON, World

CODE = ("version", "commit", "dirty", "torch", "accelerate", "deepspeed", "numpy")
"""What computes. Other packages may differ from machine to machine."""


def start_facts(config: RunConfig, data: RunData, topology: Topology, further: Mapping[str, JSON]) -> dict[str, JSON]:
    """What decides what a run computes, by the name that a user knows it by. Paths count by what is there.

    ``further``: what was read from files that are no datasets.
    """
    code = code_version()
    settings = flatten(config.model_dump(mode="json", exclude={"about"}))
    return {
        **{key: value for key, value in settings.items() if not _is_path(key)},
        "the dataset's content": data.fingerprint,
        **{f"the content of evaluation.sets.{name}": one.fingerprint for name, one in data.measured.items()},
        **further,
        **{f"code: {key}": code[key] for key in CODE},
        **{f"launch file: {key}": value for key, value in asdict(topology).items()},
    }


def require_same_start(world: World, facts: Mapping[str, JSON]) -> None:
    """Compare ``facts`` with the other ranks'. Raises one `ConfigError`, the same on all, for everything that differs.

    Ranks that compute different things agree on nothing but the number of steps: the loss looks fine and the gradient
    is nobody's.
    """
    told = [reply for reply in world.all_gather(dict(facts)) if isinstance(reply, dict)]
    differing = [line for key in sorted({key for reply in told for key in reply}) if (line := _difference(key, told))]
    if differing:
        raise ConfigError(
            "\n".join(
                [
                    "the ranks were not started alike:",
                    *differing,
                    "give every rank the same run file, settings, dataset, code and launch file",
                ]
            )
        )


def _difference(key: str, told: list[dict[str, JSON]]) -> str:
    """A line on a fact that not all ranks share, or nothing."""
    first = told[0].get(key)
    others = [rank for rank, reply in enumerate(told) if reply.get(key) != first]
    if not others:
        return ""
    more = f", and others on {len(others) - 1} more" if len(others) > 1 else ""
    return f"  {key}: {first!r} on rank 0, {told[others[0]].get(key)!r} on rank {others[0]}{more}"


def _is_path(key: str) -> bool:
    """Of what is compared by content."""
    return key in ("data.path", "start_from.path", "evaluation.answers.path") or (
        key.startswith(("data.sources.", "evaluation.sets.")) and key.endswith(".path")
    )
