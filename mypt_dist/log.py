"""One handler for the whole program: sentences go to stderr, without secrets; numbers go to trackers."""

import logging
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from mypt_dist.redact import scrub

LOGGER = "mypt_dist"


class _Sink(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(scrub(self.format(record)))
        except OSError:
            # A closed terminal or pipe must not end a run.
            return


def install(rank: int = 0, write: Callable[[str], None] | None = None) -> None:
    """INFO from rank 0, WARNING with a rank prefix from the others; ``write`` gets whole lines. Safe to call again."""
    logger = logging.getLogger(LOGGER)
    handler = _Sink(write or (lambda text: print(text, file=sys.stderr, flush=True)))  # noqa: T201 - the one sink
    handler.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False


def scrub_tracebacks() -> None:
    """Take secrets out of the tracebacks of errors that nobody expected."""
    sys.excepthook = _print_scrubbed


def _print_scrubbed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(scrub("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)  # noqa: T201
