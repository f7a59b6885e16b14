"""Which number formats this machine can train in, said before a model is built."""

import torch
from accelerate.utils import is_torchao_available, is_transformer_engine_available

from mypt_dist.errors import ConfigError

FP8_CAPABILITY = (8, 9)
"""CUDA compute capability from which on there are fp8 tensor cores: Ada and Hopper."""


def require_precision(precision: str, *, cpu: bool) -> None:
    """Raise `ConfigError` if the hardware or an installed package stands against ``precision``."""
    if precision in ("fp16", "fp8") and cpu:
        raise ConfigError(f"train.precision: {precision} needs a GPU; on a CPU use bf16 or fp32")
    if precision != "fp8":
        return
    if torch.cuda.get_device_capability() < FP8_CAPABILITY:
        raise ConfigError(
            f"train.precision: fp8 needs an Ada or Hopper GPU, this is a {torch.cuda.get_device_name()}: use bf16"
        )
    # Accelerate takes the first of these that it finds.
    if not (is_torchao_available() or is_transformer_engine_available()):
        raise ConfigError("train.precision: fp8 needs a recipe: pip install torchao (or transformer-engine)")
