"""Which numbers of ranks can share a batch? Known without torch, before there are ranks."""

from mypt_dist.errors import ConfigError
from mypt_dist.training.config import TrainConfig, divisors


def micro_batch_of(train: TrainConfig, ranks: int) -> int:
    """Windows of a forward pass of each of ``ranks``. Raises `ConfigError` with the values that would work."""
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
    return micro_batch


def largest_share(train: TrainConfig, most: int, least: int) -> int | None:
    """The largest number of ranks from ``least`` to ``most`` that can share the batch, or None."""
    for ranks in range(most, max(least, 1) - 1, -1):
        if train.batch_size % ranks == 0 and train.batch_size // ranks % (train.micro_batch or 1) == 0:
            return ranks
    return None


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
