"""Ranks, devices and precision. The only package that imports Accelerate and DeepSpeed.

Facts about Accelerate 1.15 and DeepSpeed 0.19 that this package exists to hide, each with a test in tests/unit/engine
or tests/multiproc:

* without ``cpu=True`` two CPU processes think they are alone and train unsynchronised copies, so the world is checked.
* with ``cpu=True`` FSDP2 silently becomes DDP, so Accelerate is told another type of distribution.
* DeepSpeed's plugin wants Transformers, and gloo must be asked for by name, or every process thinks it is alone.
* variables that a launch file sets outrank arguments in code, so those that change mathematics are refused.
* `backward` divides by `gradient_accumulation_steps`, and every engine averages over ranks; the loss here is already
  divided by the step's global target count, so the averaging is multiplied back and Accelerate accumulates nothing.
* Accelerate would sum FSDP2's gradients in 16 bits and clip DeepSpeed's at 1.0 whatever the run file says.
* Accelerate steps DeepSpeed inside `backward`; here its engine is told when.
* a prepared scheduler steps `num_processes` times per update, so no scheduler is ever prepared.
* a prepared loader is re-sharded and re-seeded, so no loader is ever prepared.
* `save_state` deletes before it writes, so saving is the `checkpoint` package's.
"""

from mypt_dist.engine.engine import Engine
from mypt_dist.engine.placement import LocalTensor, StateReader
from mypt_dist.engine.rng import rng_state, set_rng_state
from mypt_dist.engine.trainable import StepRecipe, Trainable, Update

__all__ = [
    "Engine",
    "LocalTensor",
    "StateReader",
    "StepRecipe",
    "Trainable",
    "Update",
    "rng_state",
    "set_rng_state",
]
