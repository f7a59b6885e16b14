"""Models that other programs trained, and models for other programs.

What is taken in becomes an ordinary verified checkpoint of ours (`adopted`): everything that reads checkpoints reads
it, and nothing below this package knows where a checkpoint came from. Readers of foreign files give names, shapes and
pieces that are read when they are written, so that a model never needs to fit into memory.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Adopted", "Origin", "adopted_before", "write_adopted"]

if TYPE_CHECKING:
    from mypt_dist.interchange.adopted import Adopted, Origin, adopted_before, write_adopted


def __getattr__(name: str) -> Any:
    # Late: the process that looks into files nobody vouches for lives below here, and loads as little as it can.
    if name not in __all__:
        raise AttributeError(f"module 'mypt_dist.interchange' has no attribute {name!r}")
    from mypt_dist.interchange import adopted  # noqa: PLC0415

    return getattr(adopted, name)
