"""One thread that works ahead of training, and may die or hang without taking the run's word with it."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from mypt_dist.errors import DataError, MyptError

T = TypeVar("T")

NAME = "loader"


class WorkAhead(Generic[T]):
    """Calls ``work`` with positions, one after the other, in a thread of its own.

    The thread is a daemon: one that hangs in a read of a dead disk must not keep the process from ending.
    """

    def __init__(self, work: Callable[[int], T], timeout_s: float) -> None:
        """``timeout_s``: seconds that `result` waits before it gives the thread up."""
        self._work, self._timeout_s = work, timeout_s
        self._queue: queue.SimpleQueue[tuple[int, Future[T]] | None] = queue.SimpleQueue()
        self._wanted: dict[int, Future[T]] = {}
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def result(self, position: int, ahead: list[int]) -> T:
        """What ``work`` returns for ``position``, started on earlier or now; ``ahead`` is started on.

        What was started on and is in neither is forgotten. Raises what ``work`` raised, if a `MyptError`; `DataError`
        where it raised anything else, or took too long.
        """
        if not self._thread.is_alive():
            self._thread.start()
        kept = {at: self._wanted.get(at) or self._submit(at) for at in [position, *ahead]}
        for at in self._wanted.keys() - kept.keys():
            self._wanted[at].cancel()
        self._wanted = kept
        try:
            return self._wanted.pop(position).result(self._timeout_s)
        except MyptError:
            raise
        except TimeoutError:
            raise DataError(
                f"the thread {NAME!r} has not read its data for {self._timeout_s:g} s (sample {position:,}): the disk "
                "hangs, or is slower than data.read_timeout_s allows"
            ) from None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"the thread {NAME!r} failed at sample {position:,}: {reason}") from error

    def close(self) -> None:
        """Stop working ahead. Waits for what is being worked on, but not for a thread that hangs."""
        for future in self._wanted.values():
            future.cancel()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(5)

    def _submit(self, position: int) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put((position, future))
        return future

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            position, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._work(position))
            except BaseException as error:  # noqa: BLE001 - handed over, whatever it is
                future.set_exception(error)
