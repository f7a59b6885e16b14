"""The engines that tests compare, each on CPU ranks: how many processes, and the variables a launch file would set."""

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
REPLICAS = {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2"}


def zero(stage: int) -> dict[str, str]:
    """What a launch file of ZeRO sets."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


ENGINES: dict[str, tuple[int, dict[str, str]]] = {
    "1": (1, {}),
    "DDP x2": (2, {}),
    "DDP x4": (4, {}),
    "FSDP2 x2": (2, FSDP2),
    "FSDP2 x4": (4, FSDP2),
    "HSDP 2x2": (4, {**FSDP2, **REPLICAS}),
    "ZeRO-1 x2": (2, zero(1)),
    "ZeRO-2 x2": (2, zero(2)),
    "ZeRO-3 x2": (2, zero(3)),
}
"""Ranks and environment by name."""
