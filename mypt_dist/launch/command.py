"""The command that starts a launch on this machine, and the variables it needs."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.launch.plan import Launch
from mypt_dist.launch.topology import EXPECTED_RANKS

SHUTDOWN_TIMEOUT_S = 600
"""After SIGTERM the launcher waits so long for the last checkpoint. Its own 30 seconds kill large ones half-written."""

GRACE_S = 300
"""What a scheduler leaves between a signal and its kill, in the files below `launch/`. Who sets less gets less."""
LAST_WORDS_S = 20
"""Of these, for the launcher to end in order after its ranks."""

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What the launcher passes on to the ranks. By itself it leaves out SIGUSR1, by which Slurm tells that time is nearly
up: it would die of it and leave its ranks behind."""

LAUNCHER = "accelerate.commands.launch"

NO_GPUS = {"ACCELERATE_USE_CPU": "true"}
"""Without it `accelerate launch` starts copies on CPUs that know nothing of each other."""
HIDDEN_GPUS = {"CUDA_VISIBLE_DEVICES": ""}
"""The same for DeepSpeed, which Accelerate does not use at all where it is told to use CPUs."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute."""

    environment: dict[str, str]
    """Besides what is set already."""
    arguments: list[str]

    @property
    def is_rank(self) -> bool:
        """Whether the process trains itself, without a launcher."""
        return LAUNCHER not in self.arguments[:3]

    def shell(self) -> str:
        """To be pasted into a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, shlex.join(self.arguments)])


def command(launch: Launch, arguments: Sequence[str], environ: Mapping[str, str], cores: int) -> Command:
    """Start `mypt` with ``arguments`` on every rank of this machine, which has ``cores`` cores.

    What ``environ`` says about threads and patience is left as it is.
    """
    module = ["-m", "mypt_dist", *arguments]
    if launch.topology.engine == "single":
        # A launcher around one process would only stand between it and its signals and exit code.
        return Command(_environment(launch, environ, cores), [sys.executable, *module])
    launcher = [sys.executable, "-m", LAUNCHER, *_options(launch)]
    return Command(_environment(launch, environ, cores), [*launcher, *module])


def _environment(launch: Launch, environ: Mapping[str, str], cores: int) -> dict[str, str]:
    needed = {EXPECTED_RANKS: str(launch.topology.ranks)}
    unless_set = {}
    gpus = launch.file.settings.gpu_ids
    if launch.cpu:
        # Accelerate loads DeepSpeed for every engine, which looks for a GPU and complains if there is none.
        needed["DS_ACCELERATOR"] = "cpu"
        needed |= HIDDEN_GPUS if launch.topology.zero_stage else NO_GPUS
        unless_set["OMP_NUM_THREADS"] = str(max(1, cores // launch.ranks_per_node))
    elif launch.topology.engine == "single" and gpus not in (None, "all"):
        needed["CUDA_VISIBLE_DEVICES"] = gpus
    if launch.topology.engine != "single":
        unless_set["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(
            GRACE_S - LAST_WORDS_S if launch.deadline else SHUTDOWN_TIMEOUT_S
        )
        # torchrun's own name for its option --signals-to-handle, which `accelerate launch` does not have.
        unless_set["PET_SIGNALS_TO_HANDLE"] = SIGNALS
    return needed | {name: value for name, value in unless_set.items() if not environ.get(name)}


def _options(launch: Launch) -> list[str]:
    """Of `accelerate launch`: all that the YAML may leave open, and what it says but Accelerate would not read."""
    options: dict[str, object] = {
        "config_file": _near(launch.file.path),
        "num_processes": launch.topology.ranks,
        "num_machines": launch.nodes,
    }
    if launch.nodes > 1:
        options["machine_rank"] = launch.node_rank
        options["main_process_ip"] = launch.address
    options["main_process_port"] = launch.port
    if launch.nodes > 1:
        options["rdzv_backend"] = launch.file.settings.rdzv_backend
        if launch.topology.zero_stage:
            options["deepspeed_multinode_launcher"] = "standard"
    if launch.file.settings.parallelism_config is not None:
        options["parallelism_config_dp_replicate_size"] = launch.topology.replicas
        options["parallelism_config_dp_shard_size"] = launch.topology.shards
    if launch.file.deepspeed_path is not None:
        options["deepspeed_config_file"] = _near(launch.file.deepspeed_path)
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _near(path: Path) -> str:
    """Relative if it is below the current folder, which is the ranks' folder too."""
    absolute = path.resolve()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
