"""Standard streams that nobody reads, or that were never opened: neither is a reason for a run to end."""

import os
import sys
from contextlib import suppress


def occupy_standard_streams() -> None:
    """Open what is closed of 0, 1 and 2, on nothing.

    Else the next file gets that number, and what a library prints goes into a checkpoint or a journal.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)


def tell(text: str) -> None:
    """Print the last words of work that is done: that nobody hears them makes no failure of it."""
    with suppress(OSError):
        print(text, flush=True)


def drop_unread_output() -> None:
    """Send what a stream could not get rid of to nowhere. The interpreter tries again at its end, and fails by that."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):
            # There is no stream, or it is closed.
            continue
