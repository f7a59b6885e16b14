"""Ranks, devices and precision. The only package that imports Accelerate.

Facts about Accelerate 1.15 that this package exists to hide, each with a test in tests/unit/engine or tests/multiproc:

* without ``cpu=True`` two CPU processes think they are alone and train unsynchronised copies, so the world is checked.
* variables that a launch file sets outrank arguments in code, so those that change mathematics are refused.
* `backward` divides by `gradient_accumulation_steps` and DDP averages over ranks; the loss here is already divided by
  the step's global target count, so the averaging is multiplied back and accumulation is never told to Accelerate.
* a prepared scheduler steps `num_processes` times per update, so no scheduler is ever prepared.
* a prepared loader is re-sharded and re-seeded, so no loader is ever prepared.
* `save_state` deletes before it writes, so saving is the `checkpoint` package's.
"""

from mypt_dist.engine.engine import Engine
from mypt_dist.engine.placement import LocalTensor, StateReader
from mypt_dist.engine.rng import rng_state, set_rng_state

__all__ = ["Engine", "LocalTensor", "StateReader", "rng_state", "set_rng_state"]
