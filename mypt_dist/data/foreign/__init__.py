"""Datasets of other programs: recognised by content, read in place or converted. One module for each format."""

from mypt_dist.data.foreign.adopt import adopt
from mypt_dist.data.foreign.convert import convert
from mypt_dist.data.foreign.registry import FORMATS

__all__ = ["FORMATS", "adopt", "convert"]
