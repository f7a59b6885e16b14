"""The ``train`` section of a run file: how long, how much at once, how fast, how often."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mypt_dist.config import Config
from mypt_dist.training.guard import GuardConfig
from mypt_dist.training.schedule import ScheduleConfig


class TrainConfig(Config):
    """The mathematics of training. How many ranks share the work is the launch file's business."""

    steps: int = Field(ge=1)
    """Optimizer updates of the whole run. The schedule ends here."""
    batch_size: int = Field(ge=1)
    """Windows of one optimizer update, over all ranks and micro-batches."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Windows of one forward pass of one rank. Null: the rank's whole share of the batch, without accumulation."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "fp32"
    """Of matrix products. Master weights and moments are fp32 always. The default is right everywhere, if slow."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient of the global batch is scaled down to this norm."""
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Patterns on names of parameters that stay as they are, such as ``embed*`` or ``blocks.[0-5].*``."""
    schedule: ScheduleConfig = ScheduleConfig()
    log_every: int = Field(default=10, ge=1)
    eval_every: int = Field(default=250, ge=1)
    eval_windows: int = Field(default=128, ge=1)
    """Validation windows of an evaluation, always the same ones, spread evenly over the validation split."""
    save_every: Annotated[int, Field(ge=1)] | Literal["auto"] = 500
    """``auto``: as often as loses the least time, from what a save costs and from ``checkpoints.mtbf_hours``."""
    stop_after: int | None = Field(default=None, ge=1)
    """Stop after this step, with a checkpoint, as if a signal had come. The schedule still ends at ``steps``."""
    guard: GuardConfig = GuardConfig()
    seed: int = Field(default=1337, ge=0, lt=2**63)
    hold_gradients: bool = False
    """FSDP2 alone: share gradients out once a step instead of after each micro-batch. It saves communication and costs
    memory for a whole gradient on every rank."""
    compile: bool = False
    """Compile each block with torch.compile."""
    deterministic: bool = False
    """Refuse kernels whose result may differ from run to run (slower on GPUs; CPU runs are deterministic anyway)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} must divide batch_size {self.batch_size}: "
                f"one of {', '.join(map(str, divisors(self.batch_size)))}"
            )
        return self


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
