"""Several files under way at once, shown as one amount of bytes."""

import threading

from mypt_dist.data.progress import Progress


class Shown:
    """Adds up. For several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._there: dict[str, int] = {}
        self._totals: dict[str, int] = {}

    def expect(self, name: str, total: int) -> None:
        """What a file is thought to have."""
        self._totals[name] = total

    def tell(self, name: str, there: int, total: int | None) -> None:
        """``there`` bytes of a file have arrived."""
        with self._lock:
            self._there[name] = there
            self._totals[name] = max(there, self._totals.get(name, 0) if total is None else total)
            self._progress(sum(self._there.values()), sum(self._totals.values()))
