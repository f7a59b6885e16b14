"""Can the batch be dealt to the ranks?"""

from collections.abc import Iterator

from mypt_dist.errors import ConfigError
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.findings import Finding, split_message

SHARES = "every rank computes an equal share of each step; a run with another batch learns something else"


def batch_ranks(case: Case) -> Iterator[Finding]:
    """`train.batch_size` that the ranks cannot share equally."""
    if case.config.train.batch_size % case.ranks:
        yield _refused(case, "train.batch_size")


def micro_batch(case: Case) -> Iterator[Finding]:
    """`train.micro_batch` that does not divide a rank's share of the batch."""
    train = case.config.train
    share, rest = divmod(train.batch_size, case.ranks)
    if not rest and train.micro_batch and share % train.micro_batch:
        yield _refused(case, "train.micro_batch")


def _refused(case: Case, key: str) -> Finding:
    try:
        batch_shape(case.config.train, case.config.model.context, 0, case.ranks)
    except ConfigError as error:
        found, remedy = split_message(str(error), "choose a divisor")
        return Finding(key, found, SHARES, remedy)
    raise AssertionError("the caller has seen that it does not divide")


CHECKS = (batch_ranks, micro_batch)
