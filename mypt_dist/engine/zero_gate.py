"""Where DeepSpeed asks whether a step may be made, other questions than overflow can be asked too.

In fp16 ZeRO looks for overflows before it steps, and leaves the step out if there is one: gradients are dropped,
weights and moments stay. The gates here put `Accept` into that place, for every precision. Read in DeepSpeed 0.19.
"""

import math
from typing import Any

from deepspeed.runtime.utils import is_invalid_grad_norm
from deepspeed.runtime.zero.stage3 import combine_grad_norm_groups

from mypt_dist.engine.trainable import Accept


class Gate:
    """Asks before every step of one of DeepSpeed's ZeRO optimizers."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero
        self.accept: Accept = lambda norm: True
        self.norm = math.nan
        """Of the last step's gradient, before clipping."""

    def _ask(self, scaled_norm: Any) -> None:
        # DeepSpeed's helpers say -1 for what is not finite.
        scaled = math.nan if is_invalid_grad_norm(scaled_norm) else float(scaled_norm)
        self.norm = scaled / self._zero.loss_scale
        if not self.accept(self.norm):
            self._zero.overflow = True

    def _overflowed(self) -> None:
        # Every rank of the world takes part in what `accept` does, whatever it is told.
        self.norm = math.inf
        self.accept(self.norm)


class WholeWeightsGate(Gate):
    """Stages 1 and 2."""

    def __init__(self, zero: Any) -> None:
        super().__init__(zero)
        self._find_overflow = zero.check_overflow if zero.check_grad_overflow else None
        self._norm_of = zero.scaled_global_norm
        zero.check_grad_overflow = True
        zero.check_overflow = self._check

    def _check(self, partition_gradients: bool = True) -> None:
        zero = self._zero
        if self._find_overflow is not None:
            self._find_overflow(partition_gradients)
        if zero.overflow:
            self._overflowed()
            return
        scaled = self._norm_of()
        # It will be asked for again at once, and costs a sum over ranks.
        zero.scaled_global_norm = lambda norm_type=2: scaled
        self._ask(scaled)


class ShardedWeightsGate(Gate):
    """Stage 3."""

    def __init__(self, zero: Any) -> None:
        super().__init__(zero)
        self._check_and_scale = zero._overflow_check_and_loss_scale_update
        self._groups_of = zero._get_norm_groups
        zero._overflow_check_and_loss_scale_update = self._check

    def _check(self, update_scale: bool = True) -> bool:
        zero = self._zero
        self._check_and_scale(update_scale)
        if zero.overflow:
            self._overflowed()
            return True
        groups = self._groups_of()
        zero._get_norm_groups = lambda: groups
        self._ask(combine_grad_norm_groups(groups))
        return bool(zero.overflow)


def gate_of(zero: Any, stage: int) -> Gate:
    """The gate for a stage's optimizer."""
    return ShardedWeightsGate(zero) if stage == 3 else WholeWeightsGate(zero)
