"""DeepSpeed's own JSON files: how ZeRO partitions and moves data. Every number of the run file's is ``auto`` there."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from mypt_dist.config import Config
from mypt_dist.launch.refusals import (
    Accumulation,
    BatchSize,
    Clipping,
    Compile,
    Device,
    MicroBatch,
    PipelineParallel,
    Recompute,
    SequenceParallel,
    TensorParallel,
    not_supported,
    owned_by_run_file,
)

QUANTISED = "it rounds what ranks exchange, and so changes what is learned; remove it"
Quantised = Annotated[object, not_supported("quantised communication", False, instead=QUANTISED)]
Nvme = Annotated[object, not_supported("offloading to NVMe", "none", instead="use cpu")]


class OffloadSection(Config):
    """``offload_optimizer`` or ``offload_param``: what is kept in host memory."""

    model_config = ConfigDict(strict=True)

    device: Device = "none"
    pin_memory: bool = True
    buffer_count: int | None = Field(default=None, ge=0)
    buffer_size: int | None = Field(default=None, ge=0)
    max_in_cpu: int | None = Field(default=None, ge=0)
    ratio: float | None = Field(default=None, ge=0, le=1)
    fast_init: bool | None = None
    nvme_path: Nvme = None
    pipeline_read: Nvme = None
    pipeline_write: Nvme = None


class ZeroSection(Config):
    """``zero_optimization``. Sizes are in elements; null leaves them to DeepSpeed."""

    model_config = ConfigDict(strict=True)

    stage: Literal[1, 2, 3]
    offload_optimizer: OffloadSection | None = None
    offload_param: OffloadSection | None = None
    overlap_comm: bool | None = None
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    reduce_bucket_size: int | None = Field(default=None, ge=1)
    allgather_partitions: bool | None = None
    allgather_bucket_size: int | None = Field(default=None, ge=1)
    use_multi_rank_bucket_allreduce: bool | None = None
    round_robin_gradients: bool | None = None
    ignore_unused_parameters: bool | None = None
    sub_group_size: int | None = Field(default=None, ge=1)
    stage3_prefetch_bucket_size: int | None = Field(default=None, ge=0)
    stage3_param_persistence_threshold: int | None = Field(default=None, ge=0)
    stage3_model_persistence_threshold: int | None = Field(default=None, ge=0)
    stage3_max_live_parameters: int | None = Field(default=None, ge=0)
    stage3_max_reuse_distance: int | None = Field(default=None, ge=0)
    stage3_module_granularity_threshold: int | None = Field(default=None, ge=0)
    stage3_gather_16bit_weights_on_model_save: bool | None = None
    """Without effect: checkpoints hold master weights."""
    zero_quantized_weights: Quantised = None
    zero_quantized_nontrainable_weights: Quantised = None
    zero_quantized_gradients: Quantised = None
    zero_hpz_partition_size: Annotated[object, not_supported("a secondary partition", 1, instead="use hsdp.yaml")] = (
        None
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.offload_param is not None and self.offload_param.device == "cpu" and self.stage != 3:
            raise ValueError(f"offload_param.device: cpu needs stage: 3, got {self.stage}")
        return self


def _auto(value: object) -> object:
    # Even false is more than nothing: Accelerate would let it win over the run file's bf16.
    if value != "auto":
        raise ValueError(f'{value!r} belongs to the run file: write "auto" here and set train.precision there')
    return value


class PrecisionSection(Config):
    """``bf16`` or ``fp16``: switched on by what the run file says."""

    enabled: Annotated[object, AfterValidator(_auto)] = "auto"


class DeepSpeedFile(Config):
    """A DeepSpeed config."""

    model_config = ConfigDict(strict=True)

    zero_optimization: ZeroSection
    train_batch_size: BatchSize = None
    train_micro_batch_size_per_gpu: MicroBatch = None
    gradient_accumulation_steps: Accumulation = None
    gradient_clipping: Clipping = None
    bf16: PrecisionSection = PrecisionSection()
    fp16: PrecisionSection = PrecisionSection()
    amp: Annotated[object, owned_by_run_file("train.precision")] = None
    data_types: Annotated[object, owned_by_run_file("train.precision")] = None
    communication_data_type: Annotated[object, owned_by_run_file("train.precision")] = None
    optimizer: Annotated[object, owned_by_run_file("optimizer")] = None
    scheduler: Annotated[object, owned_by_run_file("train.schedule")] = None
    activation_checkpointing: Recompute = None
    compile: Compile = None
    tensor_parallel: TensorParallel = None
    pipeline: PipelineParallel = None
    sequence_parallel_size: SequenceParallel = None
    tensorboard: Annotated[object, owned_by_run_file("trackers")] = None
    wandb: Annotated[object, owned_by_run_file("trackers")] = None
    csv_monitor: Annotated[object, owned_by_run_file("trackers")] = None
    zero_allow_untested_optimizer: bool = True
    """Without effect: the engine sets it."""
    zero_force_ds_cpu_optimizer: bool = False
    """Without effect: the engine sets it."""
    steps_per_print: int | None = None
    """Without effect: Accelerate sets it."""
    wall_clock_breakdown: bool | None = None
