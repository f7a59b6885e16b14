"""A run file against what it names: data, batch, memory, the folder it would continue."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mypt_dist.errors import ConfigError
from mypt_dist.launch import Topology
from mypt_dist.run.doctor.check import LOADING_S, Check, Result, fail, ok, skip, warn
from mypt_dist.run.shares import micro_batch_of
from mypt_dist.training.config import TrainConfig

if TYPE_CHECKING:
    from mypt_dist.run.config import RunConfig

NEARLY_FULL = 0.85
"""Of the memory of a rank. Forecasts of whole processes are up to 10 % off."""

BYTES_PER_PARAMETER = 12
"""Of a checkpoint: an fp32 weight and two fp32 moments."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one rank, in bytes."""

    needed: int
    available: int
    kind: str
    """``CPU`` or ``GPU``."""


def batch(train: TrainConfig, ranks: int) -> Result:
    """Whether ``ranks`` can share the batch."""
    try:
        micro = micro_batch_of(train, ranks)
    except ConfigError as error:
        return fail(str(error), "take one of these numbers")
    passes = train.batch_size // ranks // micro
    return ok(f"{train.batch_size} = {ranks} ranks x {passes} passes x {micro}")


def memory(found: Memory) -> Result:
    """Whether what a rank needs is there."""
    from mypt_dist.run.plan.options import FULL  # noqa: PLC0415 - loads torch

    share = found.needed / max(found.available, 1)
    text = f"{found.needed / 2**30:,.2f} GiB forecast, {found.available / 2**30:,.2f} GiB of {found.kind} memory free"
    if share > FULL:
        return fail(text, "see mypt plan for what would fit")
    return warn(text, "see mypt plan; forecasts are up to 10 % off") if share > NEARLY_FULL else ok(text)


def available_memory(free: int, cgroup: int | None, ranks: int) -> int:
    """Bytes for each of ``ranks`` on a machine with ``free`` bytes, of which a control group may leave fewer."""
    return min(free, free if cgroup is None else cgroup) // max(ranks, 1)


def left_in_cgroup(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this control group may still take, None without a limit. Of both versions."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (root / limit).read_text().strip(), int((root / used).read_text())
        except (OSError, ValueError):
            continue
        return max(0, int(most) - now) if most.isdigit() and int(most) < 1 << 60 else None
    return None


def run_checks(config: "RunConfig | None", environ: Mapping[str, str]) -> list[Check]:
    """Of a run file, if there is one."""
    if config is None:
        without = skip("no run file: name one with --run")
        return [Check(name, "", lambda: without) for name in ("data", "batch", "memory")]
    from mypt_dist.launch.environment import topology_from_environ  # noqa: PLC0415 - it may refuse: inside a check

    return [
        Check(
            "data", "a run that fails at its first batch, or on the wrong tokenizer", lambda: data(config), LOADING_S
        ),
        Check(
            "batch",
            "a batch that the ranks cannot share",
            lambda: batch(config.train, topology_from_environ(environ).ranks),
        ),
        Check(
            "memory",
            "'out of memory' at the fullest moment",
            lambda: memory(_memory(config, topology_from_environ(environ), environ)),
            LOADING_S,
        ),
    ]


def data(config: "RunConfig") -> Result:
    """Whether the datasets can be opened and go with the model."""
    from mypt_dist.run.data import open_data  # noqa: PLC0415 - loads torch

    found = open_data(config.data, config.open_model(), config.evaluation)
    found.check_cache(config.train, config.model.context)
    tokens = sum(manifest.splits.train.tokens for manifest in found.manifests.values())
    return ok(f"{tokens:,} tokens, {found.tokenizer.kind} tokenizer of {found.tokenizer.vocab_size:,} ids")


def checkpoint_bytes(config: "RunConfig | None") -> int | None:
    """About how large one is, None where nobody knows."""
    if config is None:
        return None
    try:
        from mypt_dist.data.remote.folder import read_manifest  # noqa: PLC0415 - only with a run file
        from mypt_dist.run.plan.forecast import Forecaster  # noqa: PLC0415 - loads torch

        source = next(iter(config.data.named_sources().values()))
        vocabulary = config.model.vocab_size or read_manifest(source.path).vocab_size
        elements = sum(p.elements for p in Forecaster(config.with_vocabulary(vocabulary), "cpu").parameters)
    except Exception:  # noqa: BLE001 - what is wrong with the run file is told by the checks that are about it
        return None
    return elements * BYTES_PER_PARAMETER


def _memory(config: "RunConfig", topology: Topology, environ: Mapping[str, str]) -> Memory:
    import psutil  # noqa: PLC0415 - these load torch
    import torch  # noqa: PLC0415

    from mypt_dist.run.plan.process import resident  # noqa: PLC0415
    from mypt_dist.run.plan.report import Machine, plan_run  # noqa: PLC0415

    on_cpu = not torch.cuda.is_available() or environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    local = int(environ.get("LOCAL_WORLD_SIZE") or topology.ranks)
    if on_cpu:
        here = resident()
        available = available_memory(psutil.virtual_memory().available, left_in_cgroup(), local) + here
        return Memory(plan_run(config, topology, Machine("cpu", base=here)).forecast.total, available, "CPU")
    free, _ = torch.cuda.mem_get_info(int(environ.get("LOCAL_RANK", "0")))
    return Memory(plan_run(config, topology, Machine("gpu")).forecast.total, free, "GPU")
