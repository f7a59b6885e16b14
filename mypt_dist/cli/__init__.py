"""The command line: parse, call, print, exit. Commands import what they need when they are called."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from mypt_dist.errors import MyptError
from mypt_dist.log import scrub_tracebacks
from mypt_dist.redact import scrub


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mypt``. Returns the exit code of errors a user can cause; raises SystemExit for all else, as typer does."""
    from mypt_dist.launch.exit_notes import noted

    # Before typer is imported: it hands on to whatever hook it finds.
    scrub_tracebacks()

    return noted(lambda: _main(arguments), os.environ)


def _main(arguments: Sequence[str] | None) -> int:
    from mypt_dist.cli.app import app
    from mypt_dist.cli.streams import drop_unread_output, occupy_standard_streams

    occupy_standard_streams()
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="mypt")
    except MyptError as error:
        _say(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        drop_unread_output()
    return 0


def _say(error: MyptError) -> None:
    """One message for all ranks; a rank that alone knows what went wrong speaks for itself."""
    # A rank's number without the number of ranks is a leftover, and no reason to be silent.
    rank = int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0
    # The exit code says it too, if nobody reads this.
    with suppress(OSError):
        if rank == 0:
            print(f"mypt: {scrub(str(error))}", file=sys.stderr, flush=True)
        elif error.local:
            print(f"mypt: [rank {rank}] {scrub(str(error))}", file=sys.stderr, flush=True)
