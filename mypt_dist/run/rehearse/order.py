"""The audit hash of the order in which samples are consumed, computed without training."""

from mypt_dist.data.order import GENESIS, chain
from mypt_dist.run.config import RunConfig
from mypt_dist.run.data import open_data


def order_hash(config: RunConfig, steps: int) -> str:
    """What the manifest of step ``steps`` must say, on any number of ranks and after any number of resumes."""
    order = open_data(config.data, config.open_model()).order(config.train, config.model.context)
    size, folded = config.train.batch_size, GENESIS
    for step in range(steps):
        folded = chain(folded, order.samples(step * size, size))
    return folded
