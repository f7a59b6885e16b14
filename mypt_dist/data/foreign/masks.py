"""Masks and weights as other programs wrote them, with every value looked at."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.errors import DataError


def as_mask(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """``values``, all 0 or 1. Raises `DataError`."""
    if values.max(initial=0) > 1:
        raise DataError(f"{path} holds {values.max()}, a mask is 0 or 1: it is damaged, or of another type")
    return values


def as_weights(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """``values``, all finite and none negative. Raises `DataError`."""
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError(f"{path} holds a weight that is negative, infinite or no number")
    return values
