"""The YAML files of `accelerate launch`: which keys may stand there, and what each of the others should be instead."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from mypt_dist.config import Config
from mypt_dist.launch.refusals import (
    SHARD_INSTEAD,
    Accumulation,
    Clipping,
    Compile,
    ContextParallel,
    Device,
    Precision,
    Recompute,
    SequenceParallel,
    TensorParallel,
    not_supported,
    only,
    owned_by_run_file,
)

NO_TPU = "use CPUs or GPUs"


def _known_kind(value: object) -> object:
    if value is False:
        raise ValueError("write 'NO' in quotes: YAML reads a bare NO as false")
    if value == "MULTI_CPU":
        raise ValueError("MULTI_CPU starts one process without a word: use MULTI_GPU with use_cpu: true, as cpu.yaml")
    if value == "MEGATRON_LM":
        raise ValueError(f"Megatron-LM is not supported: {SHARD_INSTEAD}")
    return value


def _ranks(number: int) -> int:
    if number < 1 and number != -1:
        raise ValueError(f"{number} is not a number of ranks: give 1 or more, or -1 to leave it to --ranks")
    return number


def _second_version(version: object) -> object:
    if version != 2:
        raise ValueError(f"FSDP version {version} is not supported: set fsdp_version: 2")
    return version


FirstVersion = Annotated[object, only("%s belongs to FSDP version 1: remove it")]


class FsdpSection(Config):
    """``fsdp_config``: PyTorch's fully_shard."""

    model_config = ConfigDict(strict=True)

    fsdp_version: Annotated[object, AfterValidator(_second_version)] = 1
    """Accelerate's own default is 1, and so is ours: the file has to say 2."""
    fsdp_reshard_after_forward: bool = True
    fsdp_offload_params: bool = False
    fsdp_auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP"] = "TRANSFORMER_BASED_WRAP"
    """Each block of the model is a unit of sharding, always."""
    fsdp_state_dict_type: Literal["SHARDED_STATE_DICT"] = "SHARDED_STATE_DICT"
    """Checkpoints do not depend on it."""
    fsdp_cpu_ram_efficient_loading: bool = False
    """Without effect: the engine turns it off, since it unties tied embeddings. By default Accelerate turns it on."""
    fsdp_activation_checkpointing: Recompute = False
    fsdp_activation_checkpointing_offload: Recompute = False
    fsdp_sharding_strategy: FirstVersion = None
    fsdp_backward_prefetch: FirstVersion = None
    fsdp_forward_prefetch: FirstVersion = None
    fsdp_use_orig_params: FirstVersion = None
    fsdp_sync_module_states: FirstVersion = None


class DeepSpeedSection(Config):
    """``deepspeed_config``: ZeRO by Accelerate's keys, or a pointer to DeepSpeed's own file."""

    model_config = ConfigDict(strict=True)

    deepspeed_config_file: str | None = None
    """Relative to the launch file."""
    zero_stage: Literal[1, 2, 3] | None = None
    offload_optimizer_device: Device = None
    offload_param_device: Device = None
    offload_optimizer_nvme_path: Annotated[object, not_supported("offloading to NVMe", "none", instead="use cpu")] = (
        None
    )
    offload_param_nvme_path: Annotated[object, not_supported("offloading to NVMe", "none", instead="use cpu")] = None
    deepspeed_multinode_launcher: Literal["standard"] = "standard"
    """The others start ranks over ssh or MPI instead of on the machine where the command is given."""
    zero3_init_flag: bool = False
    """Without effect: models are built before they are partitioned."""
    zero3_save_16bit_model: bool = False
    """Without effect: checkpoints hold master weights."""
    gradient_accumulation_steps: Accumulation = None
    gradient_clipping: Clipping = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        own = [key for key in OWN_FILE_HAS if getattr(self, key) is not None]
        if self.deepspeed_config_file is not None and own:
            raise ValueError(f"deepspeed_config_file: it says {', '.join(own)} too; remove that here")
        if self.deepspeed_config_file is None and self.zero_stage is None:
            raise ValueError("needs zero_stage: 1, 2 or 3, or a deepspeed_config_file")
        if self.offload_param_device == "cpu" and self.zero_stage != 3:
            raise ValueError(f"offload_param_device: cpu needs zero_stage: 3, got {self.zero_stage}")
        return self


OWN_FILE_HAS = ("zero_stage", "offload_optimizer_device", "offload_param_device", "gradient_clipping")
"""Accelerate refuses these keys beside a file of DeepSpeed's own, but only when ranks have started."""


class ParallelismSection(Config):
    """``parallelism_config``: replicas of a sharded model."""

    model_config = ConfigDict(strict=True)

    parallelism_config_dp_replicate_size: int = Field(ge=1)
    parallelism_config_dp_shard_size: int = Field(ge=1)
    parallelism_config_tp_size: TensorParallel = None
    parallelism_config_cp_size: ContextParallel = None
    parallelism_config_cp_backend: object = None
    parallelism_config_cp_comm_strategy: object = None
    parallelism_config_sp_size: SequenceParallel = None
    parallelism_config_sp_backend: object = None


class AccelerateFile(Config):
    """A file of `accelerate config`. Keys that say nothing about topology are accepted where they change nothing."""

    model_config = ConfigDict(strict=True)

    distributed_type: Annotated[Literal["NO", "MULTI_GPU", "FSDP", "DEEPSPEED"], BeforeValidator(_known_kind)]
    compute_environment: Literal["LOCAL_MACHINE"] = "LOCAL_MACHINE"
    use_cpu: bool = False
    num_processes: Annotated[int, AfterValidator(_ranks)] = -1
    """Over all machines. -1: `--ranks` says it."""
    num_machines: int = Field(default=1, ge=1)
    machine_rank: int | None = Field(default=None, ge=0)
    main_process_ip: str | None = None
    main_process_port: int | None = Field(default=None, ge=0, le=65535)
    rdzv_backend: Literal["static", "c10d"] = "static"
    gpu_ids: str | None = None
    """``all``, or a list such as ``0,1``."""
    fsdp_config: FsdpSection | None = None
    deepspeed_config: DeepSpeedSection | None = None
    parallelism_config: ParallelismSection | None = None

    enable_cpu_affinity: bool = False
    debug: bool = False
    same_network: bool = False
    """Without effect in `accelerate launch`, which reads the flag only."""
    main_training_function: str = "main"
    mpirun_config: Annotated[object, not_supported("mpirun", instead="one launcher on each machine is enough")] = None
    megatron_lm_config: Annotated[object, not_supported("Megatron-LM")] = None
    tpu_name: Annotated[object, not_supported("a TPU", instead=NO_TPU)] = None
    tpu_zone: Annotated[object, not_supported("a TPU", instead=NO_TPU)] = None
    tpu_use_cluster: Annotated[object, not_supported("a TPU", False, instead=NO_TPU)] = None
    tpu_use_sudo: Annotated[object, not_supported("a TPU", False, instead=NO_TPU)] = None
    tpu_env: Annotated[object, not_supported("a TPU", instead=NO_TPU)] = None
    downcast_bf16: Annotated[object, not_supported("a TPU", "no", False, instead=NO_TPU)] = None
    mixed_precision: Precision = None
    fp16: Annotated[object, owned_by_run_file("train.precision", False)] = None
    fp8_config: Precision = None
    dynamo_backend: Compile = None
    dynamo_config: Compile = None
    gradient_accumulation_steps: Accumulation = None
    gradient_clipping: Clipping = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        found = []
        for section, kind in SECTIONS.items():
            present = getattr(self, section) is not None
            if present and self.distributed_type != kind:
                found.append(
                    f"{section} has no effect with distributed_type: {self.distributed_type}, only with {kind}"
                )
            if not present and self.distributed_type == kind and section != "parallelism_config":
                found.append(f"distributed_type: {kind} needs {section}")
        if found:
            raise ValueError("; ".join(found))
        return self


SECTIONS = {"fsdp_config": "FSDP", "deepspeed_config": "DEEPSPEED", "parallelism_config": "FSDP"}
"""Which kind each section belongs to. Accelerate passes over the others without a word."""
