"""The ``watch`` section of a run file: how long nothing may happen before a run is ended."""

from pydantic import Field

from mypt_dist.config import Config


class WatchConfig(Config):
    """Limits in seconds, each the time that ranks wait for one another in a collective of that part of a run.

    A rank that is at one phase for 0.8 of its limit is ended by its own watchdog, before its peers give up and only
    tell that somebody is missing.
    """

    watchdog: bool = True
    """A process beside each rank that reports a hang, ends a rank that hangs, and keeps heartbeat.json. Without it only
    the collectives' time-outs are left."""
    first_step_s: float = Field(default=1800, gt=0)
    """From the start to the end of the first step: ranks compile, read cold disks, and start at different times."""
    step_s: float = Field(default=300, gt=0)
    """After the first step. Well above any step and any pause of a shared disk, well below the half hour that a cluster
    would otherwise pay for in vain."""
    evaluate_s: float = Field(default=1800, gt=0)
    """One evaluation: the first one may compile the model anew."""
    save_s: float = Field(default=1800, gt=0)
    """One checkpoint, or the end of a run: a slow disk is no reason to lose what is being saved."""
    grace_s: float = Field(default=10, gt=0)
    """How long a rank that hangs may take for its report, and again to end by itself, before it is killed."""
    heartbeat_s: float = Field(default=10, gt=0)
    """How often heartbeat.json is written: small against the two minutes in which a health check should notice."""
    slow_factor: float = Field(default=1.5, gt=1)
    """A rank is called slow when it keeps itself busy so many times longer than the median of the others."""
