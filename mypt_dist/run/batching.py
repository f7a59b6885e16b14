"""How a global batch is dealt to ranks and micro-batches, and what would be legal when it cannot be."""

from mypt_dist.data.loader import BatchShape
from mypt_dist.errors import ConfigError
from mypt_dist.training.config import TrainConfig, divisors


def batch_shape(train: TrainConfig, context: int, rank: int, ranks: int) -> BatchShape:
    """The share of ``rank`` of ``ranks``. Raises `ConfigError` with the values that would work."""
    batch = train.batch_size
    if batch % ranks:
        raise ConfigError(
            f"train.batch_size {batch} cannot be shared by {ranks} ranks: use a multiple of {ranks}, "
            f"such as {max(1, batch // ranks) * ranks}, or one of {_listed(divisors(batch))} ranks"
        )
    micro_batch = train.micro_batch or batch // ranks
    if batch // ranks % micro_batch:
        raise ConfigError(
            f"train.micro_batch {micro_batch} does not divide the {batch // ranks} windows that each of {ranks} ranks "
            f"has of train.batch_size {batch}: use one of {_listed(divisors(batch // ranks))}"
        )
    return BatchShape(batch, micro_batch, context, rank, ranks)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
