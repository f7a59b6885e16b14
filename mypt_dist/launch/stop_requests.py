"""Is a signal a new request to stop, or the echo of one that was heard? The same for ranks and their supervisor."""

import signal

ANNOUNCING = (signal.SIGUSR1, signal.SIGHUP)
"""Signals after which a stricter one is to be expected, and is no demand to drop everything."""

ONE_REQUEST_S = 1.0
"""Signals so close are one request: a terminal and Slurm tell every process of a job, and the launcher passes it on."""

ECHO_S = 10.0
"""The same signal again: a launcher may be slow to pass it on, and tells twice what it was told twice. Not for SIGINT,
which somebody at a keyboard gives a second time on purpose."""


def is_echo(first: int, number: int, seconds: float) -> bool:
    """Whether the signal ``number``, so many seconds after ``first``, belongs to the same request."""
    return seconds < (ECHO_S if number == first != signal.SIGINT else ONE_REQUEST_S)
