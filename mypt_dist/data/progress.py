"""Who is told how much of a long work is done?"""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class BytesDone:
    """How much of all that is to be read was read."""

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self._done, self._total = 0, total
        self._progress = progress or (lambda _done, _total: None)

    def add(self, size: int) -> None:
        """So many bytes more."""
        self._done += size
        self._progress(self._done, self._total)
