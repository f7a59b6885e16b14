"""Checkpoints saved in between, to lose less work: only the newest one of them is of any use."""

from collections.abc import Mapping

EPHEMERAL = "checkpoint/ephemeral"
"""A metric of such a checkpoint, so that whoever tidies up later knows, whatever the run file says by then."""


def marked(metrics: Mapping[str, float], *, ephemeral: bool) -> dict[str, float]:
    """The metrics of a checkpoint, with the mark of an ephemeral one."""
    return {**metrics, EPHEMERAL: 1.0} if ephemeral else dict(metrics)


def is_ephemeral(metrics: Mapping[str, float]) -> bool:
    """Whether a checkpoint of these metrics is to go as soon as there is a newer one."""
    return EPHEMERAL in metrics
