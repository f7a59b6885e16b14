"""Nobody trains on whose launcher is gone."""

import os
import signal
from collections.abc import Mapping

from mypt_dist.lifeline import die_with_parent

LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID")
"""Variables that a launcher sets for each rank."""


def die_with_launcher(environ: Mapping[str, str]) -> None:
    """End this rank when its launcher is killed: its run's folder is free at once, and no device is held.

    Launchers start ranks from their main thread. SIGKILL, because the launcher has taken the ranks' rendezvous along:
    an orderly end might wait for it for ever.
    """
    if any(name in environ for name in LAUNCHED) and not die_with_parent():
        os.kill(os.getpid(), signal.SIGKILL)
