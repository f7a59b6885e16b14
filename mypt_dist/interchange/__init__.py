"""Models that other programs trained, and models for other programs.

What is taken in becomes an ordinary verified checkpoint of ours (`adopted`): everything that reads checkpoints reads
it, and nothing below this package knows where a checkpoint came from. Readers of foreign files give names, shapes and
pieces that are read when they are written, so that a model never needs to fit into memory.
"""

from mypt_dist.interchange.adopted import Adopted, Origin, adopted_before, write_adopted

__all__ = ["Adopted", "Origin", "adopted_before", "write_adopted"]
