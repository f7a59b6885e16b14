"""What of the data could not be read or was damaged: one answer on all ranks, at the same step."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mypt_dist import errors
from mypt_dist.data.loader import Step
from mypt_dist.errors import DataError, MyptError
from mypt_dist.world import JSON, World

log = logging.getLogger(__name__)

T = TypeVar("T")


class Summing(World, Protocol):
    """Ranks that can also add numbers up."""

    def sum(self, *values: float) -> list[float]: ...


def shared_failure(world: World, failure: MyptError | None, where: str) -> MyptError:
    """The same error on every rank, of the first one that had one. A collective; call it where at least one has.

    The rank that met it speaks for itself, rank 0 for all.
    """
    mine: dict[str, JSON] = {"kind": type(failure).__name__, "text": str(failure)} if failure else {}
    told = [(rank, error) for rank, error in enumerate(world.all_gather(mine)) if isinstance(error, dict) and error]
    rank, error = told[0]
    kind = getattr(errors, str(error["kind"]), MyptError)
    whose = f" on rank {rank}" if world.size > 1 else ""
    shared: MyptError = kind(f"{where}{whose}: {error['text']}")
    return shared


def together(world: Summing, action: Callable[[], T], where: str) -> T:
    """``action`` on every rank; if it raises a `MyptError` on any, every rank raises that. A collective."""
    result, failure = None, None
    try:
        result = action()
    except MyptError as error:
        failure = error
    (failed,) = world.sum(failure is not None)
    if failed:
        raise shared_failure(world, failure, where)
    return result  # type: ignore[return-value]  # it did not fail


@dataclass
class DamageBook:
    """Which blocks are damaged and how many windows were skipped for it, the same on all ranks and after a resume."""

    world: Summing
    total: int
    """Blocks of all sources."""
    limit: float
    """Share of them above which a run ends."""
    skips: bool
    """Whether damage is skipped at all: if not, nothing is ever asked of the other ranks."""
    tell: Callable[[int, int, list[str]], None] = lambda step, windows, blocks: None
    """Told on every rank of a step that skipped windows: how many, and the blocks that are new."""
    blocks: tuple[str, ...] = ()
    skipped_windows: int = 0

    def resume(self, saved: Mapping[str, Any]) -> list[str]:
        """Go on with what `to_json` saved; the blocks to be skipped without a look."""
        if not self.skips:
            return []
        try:
            self.blocks, self.skipped_windows = tuple(map(str, saved["blocks"])), int(saved["skipped_windows"])
        except (LookupError, TypeError, ValueError):
            self.blocks, self.skipped_windows = (), 0
        return list(self.blocks)

    def after_loading(self, step: int, mine: Step, targets: float) -> None:
        """All ranks have loaded their part of ``step``, ``mine`` is this one's. A collective.

        Raises `DataError` on all ranks alike where more blocks are damaged than ``limit`` allows, and where
        nothing at all is left of the step.
        """
        if not self.skips:
            return
        (windows,) = self.world.sum(mine.skipped)
        if not windows:
            return
        self._agree(step, int(windows), list(mine.damaged))
        if not targets:
            raise DataError(f"step {step}: every window is on damaged data: {_listed(self.blocks)}")
        if len(self.blocks) > self.limit * self.total:
            raise DataError(
                f"step {step}: {len(self.blocks)} of {self.total} blocks are damaged, more than data.max_damaged "
                f"({self.limit:g}) allows: {_listed(self.blocks)}"
            )

    def to_json(self) -> dict[str, JSON]:
        """For manifests."""
        return {"blocks": list(self.blocks), "skipped_windows": self.skipped_windows}

    def metrics(self) -> dict[str, float]:
        """``data/skipped_windows`` of the whole run, if any may be."""
        return {"data/skipped_windows": self.skipped_windows} if self.skips else {}

    def _agree(self, step: int, windows: int, mine: list[JSON]) -> None:
        known = set(self.blocks)
        for blocks in self.world.all_gather(mine):
            known |= set(map(str, blocks)) if isinstance(blocks, list) else set()
        new = sorted(known - set(self.blocks))
        self.blocks = tuple(sorted(known))
        self.skipped_windows += windows
        if new:
            log.warning("step %d: damaged data is skipped: %s", step, _listed(new))
        self.tell(step, windows, new)


def _listed(blocks: Iterable[str]) -> str:
    first, *rest = blocks
    shown = [first, *rest[:4]]
    return ", ".join(shown) + (f" and {len(rest) - 4} more" if len(rest) > 4 else "")
