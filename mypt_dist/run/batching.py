"""How a global batch is dealt to ranks and micro-batches."""

from mypt_dist.data.loader import BatchShape
from mypt_dist.run.shares import micro_batch_of
from mypt_dist.training.config import TrainConfig


def batch_shape(train: TrainConfig, context: int, rank: int, ranks: int) -> BatchShape:
    """The share of ``rank`` of ``ranks``. Raises `ConfigError` with the values that would work."""
    return BatchShape(train.batch_size, micro_batch_of(train, ranks), context, rank, ranks)
