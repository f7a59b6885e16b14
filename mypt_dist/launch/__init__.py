"""Launch files: how many ranks there are and how they share the model. Read without torch or Accelerate."""

from mypt_dist.launch.topology import EngineName, Topology

__all__ = ["EngineName", "Topology"]
