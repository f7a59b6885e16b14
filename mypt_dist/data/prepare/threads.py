"""How do threads share work whose results are needed in order, with a bounded number of results waiting?"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

WAITING_PER_THREAD = 3
"""Enough that a thread finds work while an earlier, slower piece holds the results up."""


def in_order(task: Callable[[A], B], work: Iterable[A], threads: int) -> Iterator[B]:
    """``task`` of every piece of ``work``, in the order of ``work``.

    ``work`` is read by the calling thread, only as far ahead as the threads need. The first exception of a task is
    raised here. Threads serve because tokenizing, hashing and reading release the interpreter's lock.
    """
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        try:
            for piece in work:
                waiting.append(pool.submit(task, piece))
                if len(waiting) > WAITING_PER_THREAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
