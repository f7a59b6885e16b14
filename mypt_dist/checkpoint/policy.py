"""Which checkpoints a run keeps, what it does about a corrupt one, and where a second copy of each goes."""

from typing import Literal

from mypt_dist.checkpoint.retention import Retention


class CheckpointPolicy(Retention):
    """Which checkpoints are kept, what a corrupt one does, and where a second copy of each goes."""

    on_corrupt: Literal["previous", "stop"] = "previous"
    """What a start does about a newest checkpoint whose bytes have changed: ``previous`` sets it aside, resumes from
    the one before it and says how many steps are done again; ``stop`` changes nothing and ends with exit code 6.
    Changed bytes do not get better, and waiting for a person costs more than the steps, hence the default."""
    mirror: str | None = None
    """A second place for every checkpoint, which a process of its own copies there: another folder or an fsspec URL
    such as ``s3://bucket/run``. Where the run's folder is lost, the next start takes the newest one from there."""

    @property
    def retention(self) -> Retention:
        """Which are kept, alone."""
        return Retention.model_validate(self.model_dump(include=set(Retention.model_fields)))
