"""The ``checkpoints`` section of a run file: how they are saved, what a failure does, which ones are kept."""

from pydantic import Field

from mypt_dist.checkpoint.policy import CheckpointPolicy


class CheckpointConfig(CheckpointPolicy):
    """How checkpoints are saved, what a failed save does, and which ones are kept."""

    background: bool = True
    """Training goes on once the state is copied; a process of its own writes it. The copy takes as much host memory
    as the rank's share of a checkpoint: false saves that memory, and every save stops training until it is safe."""
    ephemeral_every: int | None = Field(default=None, ge=1)
    """Also save at every multiple of this, to lose less work: such a checkpoint is deleted as soon as there is a newer
    one, and the rules of what is kept count only the others. Null: none."""
    wait_s: float = Field(default=0.0, ge=0)
    """Seconds that a save waits for an earlier one still being written. Then it is put off: it begins as soon as the
    earlier one has ended, hence the default costs no training time."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """Seconds after which a step of a background save counts as failed and its writer is killed. No disk in use for
    training is so slow; one that hangs never answers."""
    max_failures: int = Field(default=5, ge=1)
    """Failed saves in a row that end the run. The tries come at growing distances: five take about one and a half
    intervals, time for somebody to make room, and not much work that would be lost."""
    mtbf_hours: float = Field(default=24.0, gt=0)
    """Mean time between failures of the whole run, for ``train.save_every: auto``. A laptop or a preemptible machine is
    interrupted about daily; a run of 16 000 GPUs every 3 hours (arXiv:2407.21783). The interval goes with its root."""
