"""A process that watches over a launch: it passes signals on and restarts what is worth it. Needs no torch."""

from mypt_dist.launch.supervision.patience import Patience
from mypt_dist.launch.supervision.supervisor import Job, supervise

__all__ = ["Job", "Patience", "supervise"]
