"""Which number formats this machine can train in, said before a model is built."""

import torch
from accelerate.utils import AORecipeKwargs, is_torchao_available
from torch import nn

from mypt_dist.errors import ConfigError

FP8_CAPABILITY = (8, 9)
"""CUDA compute capability from which on there are fp8 tensor cores: Ada and Hopper."""

FP8_MULTIPLE = 16
"""Both sides of a matrix must be multiples of it for fp8 tensor cores."""


def require_precision(precision: str, *, cpu: bool, zero_stage: int) -> None:
    """Raise `ConfigError` if hardware, engine or an installed package stands against ``precision``."""
    if precision in ("fp16", "fp8") and cpu:
        raise ConfigError(f"train.precision: {precision} needs a GPU; on a CPU use bf16 or fp32")
    if precision != "fp8":
        return
    if zero_stage:
        raise ConfigError(f"train.precision: fp8 does not go with ZeRO-{zero_stage}: use bf16, or FSDP2 or DDP")
    if torch.cuda.get_device_capability() < FP8_CAPABILITY:
        raise ConfigError(
            f"train.precision: fp8 needs an Ada or Hopper GPU, this is a {torch.cuda.get_device_name()}: use bf16"
        )
    if not is_torchao_available():
        raise ConfigError("train.precision: fp8 needs torchao: pip install torchao")


def fp8_recipe() -> AORecipeKwargs:
    """Accelerate's recipe for torchao, for the matrices of the blocks alone.

    Weights travel in bf16. To gather them in fp8, torchao puts them into tensors of a class of its own, whose memory a
    checkpoint cannot read.
    """
    return AORecipeKwargs(module_filter_func=is_fp8_layer, enable_fsdp_float8_all_gather=False)


def is_fp8_layer(module: nn.Module, name: str) -> bool:
    """Whether ``module`` computes in fp8: not the head, which is more than a linear layer and wants exact logits."""
    return (
        name.startswith("blocks.")
        and isinstance(module, nn.Linear)
        and module.in_features % FP8_MULTIPLE == 0
        and module.out_features % FP8_MULTIPLE == 0
    )
