"""What a launch file may not say: settings of the run file, and kinds of parallelism that are not supported."""

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

SHARD_INSTEAD = "shard over more ranks with FSDP2 (fsdp2.yaml) or ZeRO-3 (zero3.yaml)"


def owned_by_run_file(key: str, *harmless: object) -> AfterValidator:
    """Refuse every value but the ``harmless`` ones, which change nothing, and name the run file's key instead."""
    return only(f"%s belongs to the run file: remove it here and set {key} there", *harmless)


def not_supported(name: str, *harmless: object, instead: str = SHARD_INSTEAD) -> AfterValidator:
    """Refuse every value but the ``harmless`` ones, and say what to use ``instead``."""
    return only(f"{name} is not supported: {instead}", *harmless)


def only(complaint: str, *harmless: object) -> AfterValidator:
    """Refuse every value but the ``harmless`` ones; ``%s`` stands for it. What is empty is always harmless."""

    def check(value: object) -> object:
        if value in (*harmless, None, {}, []):
            return value
        raise ValueError(complaint.replace("%s", repr(value) if isinstance(value, str | int | float) else "it"))

    return AfterValidator(check)


Device: TypeAlias = Annotated[object, only("%s is not supported for offloading: use cpu or none", "cpu", "none")]
"""Where ZeRO keeps what it offloads. DeepSpeed's third device is nvme."""
BatchSize: TypeAlias = Annotated[object, owned_by_run_file("train.batch_size", "auto")]
MicroBatch: TypeAlias = Annotated[object, owned_by_run_file("train.micro_batch", "auto")]
Accumulation: TypeAlias = Annotated[object, owned_by_run_file("train.batch_size and train.micro_batch", 1, "auto")]
Clipping: TypeAlias = Annotated[object, owned_by_run_file("train.max_grad_norm", "auto", "none")]
Precision: TypeAlias = Annotated[object, owned_by_run_file("train.precision", "no")]
Compile: TypeAlias = Annotated[object, owned_by_run_file("train.compile", "no", "NO", False)]
Recompute: TypeAlias = Annotated[object, owned_by_run_file("model.activation_checkpointing", False)]
TensorParallel: TypeAlias = Annotated[object, not_supported("tensor parallelism", 1)]
ContextParallel: TypeAlias = Annotated[object, not_supported("context parallelism", 1)]
SequenceParallel: TypeAlias = Annotated[object, not_supported("sequence parallelism", 1)]
PipelineParallel: TypeAlias = Annotated[object, not_supported("pipeline parallelism", 1)]
