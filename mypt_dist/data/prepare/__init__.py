"""Text to token shards. Tools: nothing here is used while training, and nothing loads torch."""

from mypt_dist.data.prepare.inputs import ACCEPTED, stdlib_files
from mypt_dist.data.prepare.settings import PrepareSettings
from mypt_dist.data.prepare.text import PrepareReport, prepare

__all__ = ["ACCEPTED", "PrepareReport", "PrepareSettings", "prepare", "stdlib_files"]
