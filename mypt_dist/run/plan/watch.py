"""A run that knows what it should need, and says after some steps how far that was off."""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from mypt_dist.launch import Topology
from mypt_dist.run.plan.process import most_resident, resident

if TYPE_CHECKING:
    from mypt_dist.run.config import RunConfig

log = logging.getLogger(__name__)

Device: TypeAlias = Literal["cpu", "gpu"]

MEASURED_AFTER = 10
"""Steps. By then the optimizer's state is there, and every kernel has been called."""


class MemoryWatch:
    """Forecast once, compared once; nothing that goes wrong here reaches the run."""

    def __init__(self, forecast: Callable[[], int | None], measure: Callable[[], int]) -> None:
        """``forecast``: bytes, null if there is none. ``measure``: the most bytes so far."""
        self._forecast, self._measure = forecast, measure
        self._steps = 0
        self._record: dict[str, int | float] | None = None

    def stepped(self) -> None:
        """One more update. After some of them one line is logged.

        Only then is anything forecast: it takes a second or two, which a start, or a short run, need not wait for.
        """
        self._steps += 1
        if self._steps != MEASURED_AFTER:
            return
        # Before forecasting, which loads code of its own.
        measured, predicted = self._measure(), self._forecast()
        if predicted is None:
            return
        error = predicted / max(measured, 1) - 1
        self._record = {"predicted_bytes": predicted, "measured_bytes": measured, "error": round(error, 4)}
        log.info(
            "memory: predicted %.2f GiB, measured %.2f GiB (error %+.1f %%)",
            predicted / 2**30,
            measured / 2**30,
            100 * error,
        )

    def record(self) -> dict[str, int | float] | None:
        """For the manifest: ``predicted_bytes``, ``measured_bytes``, and ``error`` as a fraction. Null: not yet."""
        return self._record


def memory_watch(config: "RunConfig", topology: Topology, device: str) -> MemoryWatch:
    """The watch of a run whose model is about to be built. A forecast draws from no random generator.

    ``config`` has its vocabulary settled; ``device`` is a torch device type. On a GPU the tensors are forecast, which
    is what torch counts; on a CPU the whole process.
    """
    if device == "cuda":
        return MemoryWatch(partial(_predicted, config, topology, "gpu", 0), _most_allocated)
    return MemoryWatch(partial(_predicted, config, topology, "cpu", resident()), most_resident)


def _predicted(config: "RunConfig", topology: Topology, device: Device, base: int) -> int | None:
    try:
        from mypt_dist.run.batching import batch_shape  # noqa: PLC0415 - whatever fails here must be caught here
        from mypt_dist.run.plan.forecast import Forecaster, Way  # noqa: PLC0415

        shape = batch_shape(config.train, config.model.context, 0, topology.ranks)
        way = Way(topology, shape.micro_batch, shape.micro_batches, config.model.activation_checkpointing)
        forecast = Forecaster(config, device, base=base)(way)
    except Exception as error:  # noqa: BLE001 - a forecast must never end a run
        log.warning("memory: no forecast (%s: %s)", type(error).__name__, error)
        return None
    return forecast.tensors if device == "gpu" else forecast.total


def _most_allocated() -> int:
    import torch  # noqa: PLC0415 - only GPUs count for themselves

    return int(torch.cuda.max_memory_allocated())
