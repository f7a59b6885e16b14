"""What the launcher told this process, in the variables that `accelerate launch` sets from a launch file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mypt_dist.config import read_json
from mypt_dist.errors import ConfigError
from mypt_dist.launch.topology import EngineName, Topology, promised_ranks

OWNED_BY_RUN_FILE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1", "auto"), "train.batch_size and train.micro_batch"),
    "ACCELERATE_GRADIENT_CLIPPING": (("", "none", "auto"), "train.max_grad_norm"),
    "ACCELERATE_DYNAMO_BACKEND": (("NO", "no"), "train.compile"),
    "FSDP_ACTIVATION_CHECKPOINTING": (("false",), "model.activation_checkpointing"),
}
"""Variables by which a launch file changes mathematics: the values that do no harm, and the run file's key."""

PARALLELISM = {
    "PARALLELISM_CONFIG_TP_SIZE": "tensor parallelism",
    "PARALLELISM_CONFIG_CP_SIZE": "context parallelism",
    "PARALLELISM_CONFIG_SP_SIZE": "sequence parallelism",
}


def topology_from_environ(environ: Mapping[str, str]) -> Topology:
    """The topology that the launcher asks for. Raises one `ConfigError` for everything that is not supported."""
    problems = list(_unsupported(environ))
    if problems:
        raise ConfigError("\n".join(["the launch file asks for what is not supported:", *problems]))
    ranks = promised_ranks(environ)
    if _is_on(environ, "ACCELERATE_USE_DEEPSPEED"):
        return _zero(environ, ranks)
    if _is_on(environ, "ACCELERATE_USE_FSDP"):
        return _fully_sharded(environ, ranks)
    return Topology(engine="ddp" if ranks > 1 else "single", ranks=ranks)


def refuse_contradictions(precision: str, environ: Mapping[str, str]) -> None:
    """Raise one `ConfigError` for everything in the launch file that the run file owns."""
    found = []
    for variable, (harmless, key) in OWNED_BY_RUN_FILE.items():
        value = environ.get(variable, harmless[0])
        if value not in harmless:
            found.append(f"  {variable}={value}: remove it from the launch file and set {key} in the run file")
    launched = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", {"fp32": "no"}.get(precision, precision)):
        found.append(
            f"  mixed_precision: {launched} in the launch file, train.precision: {precision} in the run file: "
            "remove it from the launch file"
        )
    if found:
        raise ConfigError("\n".join(["the launch file contradicts the run file:", *found]))


def _unsupported(environ: Mapping[str, str]) -> Iterator[str]:
    if _is_on(environ, "ACCELERATE_USE_MEGATRON_LM"):
        yield "  Megatron-LM: use FSDP2 (launch/accelerate/fsdp2.yaml) or ZeRO (zero3.yaml)"
    for variable, name in PARALLELISM.items():
        if environ.get(variable, "1") not in ("", "1"):
            yield f"  {name} ({variable}={environ[variable]}): shard over more ranks with FSDP2 or ZeRO-3 instead"
    if _is_on(environ, "ACCELERATE_USE_FSDP") and environ.get("FSDP_VERSION", "1") != "2":
        yield "  FSDP version 1: set fsdp_version: 2, as in launch/accelerate/fsdp2.yaml"
    sharded = _is_on(environ, "ACCELERATE_USE_FSDP") or _is_on(environ, "ACCELERATE_USE_DEEPSPEED")
    if sharded and "WORLD_SIZE" not in environ:
        yield "  sharding without a launcher: start with mypt launch, accelerate launch or torchrun"
    if _is_on(environ, "ACCELERATE_USE_DEEPSPEED"):
        stage, *devices = _deepspeed_settings(environ)
        if stage not in (1, 2, 3):
            yield f"  ZeRO stage {stage}: use 1, 2 or 3, or DDP (launch/accelerate/ddp.yaml)"
        yield from (f"  offloading to {device}: use cpu or none" for device in devices if device not in ("cpu", "none"))


def _zero(environ: Mapping[str, str], ranks: int) -> Topology:
    stage, optimizer, parameters = _deepspeed_settings(environ)
    names: dict[int, EngineName] = {1: "zero1", 2: "zero2", 3: "zero3"}
    return Topology(
        engine=names[stage],
        ranks=ranks,
        offload_optimizer=optimizer == "cpu",
        offload_parameters=parameters == "cpu" and stage == 3,
    )


def _fully_sharded(environ: Mapping[str, str], ranks: int) -> Topology:
    replicas = int(environ.get("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "1"))
    shards = int(environ.get("PARALLELISM_CONFIG_DP_SHARD_SIZE", "") or ranks // replicas)
    if replicas > 1 and replicas * shards != ranks:
        raise ConfigError(
            f"the launch file shards over {shards} ranks in each of {replicas} replicas, that is {replicas * shards} "
            f"ranks, but {ranks} were started"
        )
    offload = _is_on(environ, "FSDP_OFFLOAD_PARAMS")
    return Topology(
        engine="hsdp" if replicas > 1 else "fsdp2",
        ranks=ranks,
        replicas=replicas,
        reshard_after_forward=environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true",
        offload_optimizer=offload,
        offload_parameters=offload,
    )


def _deepspeed_settings(environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Stage, and where optimizer and parameters are offloaded to: from DeepSpeed's own file, if there is one."""
    path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path == "none":
        optimizer = environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
        parameters = environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none")
        return int(environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")), optimizer, parameters
    content = read_json(Path(path))
    zero: dict[str, Any] = content.get("zero_optimization", {}) if isinstance(content, dict) else {}
    if not isinstance(zero, dict) or not isinstance(zero.get("stage"), int):
        raise ConfigError(f"{path}: zero_optimization.stage must be 1, 2 or 3")
    devices = [zero.get(key, {}).get("device", "none") for key in ("offload_optimizer", "offload_param")]
    return int(zero["stage"]), str(devices[0]), str(devices[1])


def _is_on(environ: Mapping[str, str], variable: str) -> bool:
    return environ.get(variable, "false").lower() in ("true", "1")
