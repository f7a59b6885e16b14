"""What the launcher promised, and what of it contradicts the run file."""

import os
from collections.abc import Mapping

from mypt_dist.errors import ConfigError

OWNED_BY_RUN_FILE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "train.batch_size and train.micro_batch"),
    "ACCELERATE_GRADIENT_CLIPPING": ("", "train.max_grad_norm"),
}
"""Variables by which a launch file changes mathematics: the value that does no harm, and the run file's key."""

UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or hybrid parallelism",
}


def expected_world_size(environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks the launcher says it started: 1 without a launcher."""
    return int(environ.get("WORLD_SIZE", "1"))


def refuse_contradictions(precision: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise one `ConfigError` for everything in the launch file that the run file owns or that is not supported."""
    found = []
    for variable, (harmless, key) in OWNED_BY_RUN_FILE.items():
        value = environ.get(variable, harmless)
        if value != harmless:
            found.append(f"{variable}={value}: remove it from the launch file and set {key} in the run file")
    launched = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", {"fp32": "no"}.get(precision, precision)):
        found.append(
            f"mixed_precision: {launched} in the launch file, train.precision: {precision} in the run file: "
            "remove it from the launch file"
        )
    for variable, name in UNSUPPORTED.items():
        if environ.get(variable, "false").lower() in ("true", "1"):
            found.append(
                f"{variable}: {name} is not supported yet; use one process or DDP (launch/accelerate/ddp.yaml)"
            )
    if found:
        raise ConfigError("\n".join(["the launch file contradicts the run file:", *(f"  {line}" for line in found)]))
