"""What a scheduler has allotted to a run, read from the variables it sets, and the launch that follows from it."""

from mypt_dist.launch.allotment.read import read_allotment
from mypt_dist.launch.allotment.settle import settle
from mypt_dist.launch.allotment.told import Allotment, Told

__all__ = ["Allotment", "Told", "read_allotment", "settle"]
