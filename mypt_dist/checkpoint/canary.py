"""Does a loaded model compute what the saved one did? Hashes prove the bytes; this proves the code that uses them."""

import math
from typing import Annotated

from pydantic import Field

from mypt_dist.config import Config

TOLERANCE = 1e-3
"""Relative. Another number of ranks, engine or version of torch adds up in another order: in float32 that changes a
loss by some 1e-6, in bfloat16, whose neighbours are 2⁻⁸ apart, the mean over a batch by less than this. Code of another
model misses it by far: a mask, a norm or a transposed matrix that is wrong changes a loss by percents."""


class Canary(Config):
    """The loss of one fixed batch, computed by the model that was saved."""

    loss: Annotated[str, Field(pattern=r"^-?(0x[01]\.[0-9a-f]+p[+-]\d+|inf|nan)$")]
    """As `float.hex` spells it: no bit is lost, and JSON has no NaN."""
    batch: str
    """What it was computed from, so that it can be told whether two losses may be compared: hash of the tokens."""


def canary_problem(saved: Canary, now: Canary, *, same_world: bool) -> str | None:
    """Why the model here can not be the one that was saved, or None.

    ``same_world`` is whether the number of ranks, the engine and the version of torch are those of the save: then
    every bit must agree, else the losses may differ by `TOLERANCE`. Losses of two batches are not compared: None.
    """
    if saved.batch != now.batch:
        return None
    before, after = float.fromhex(saved.loss), float.fromhex(now.loss)
    if saved.loss == now.loss or (not same_world and math.isclose(before, after, rel_tol=TOLERANCE)):
        return None
    allowed = "every bit must agree in the same world" if same_world else f"{TOLERANCE:g} of it is allowed"
    return f"the loss of the saved batch is {after!r} here and was {before!r} when it was saved: {allowed}"
