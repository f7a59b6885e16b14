"""Threads that fetch shards into the cache, in the order in which they will be read.

They are daemons, and whatever happens in them stays there: training hears of it only where it needs a shard that cannot
be had.
"""

import logging
import threading
import time
from collections.abc import Iterable

from mypt_dist.data.remote.cache import CacheFullError, Lease, ShardCache
from mypt_dist.data.remote.download import StoppedError, Talk, Wanted, download
from mypt_dist.data.remote.folder import RefusedError
from mypt_dist.errors import DataError
from mypt_dist.redact import scrub

log = logging.getLogger(__name__)

THREADS = 4
"""Files fetched at once by one process: a single stream of an object store rarely fills the network."""
LOOK_S = 0.2
"""At most so long between two looks at what other processes have fetched."""
AGAIN_S = 2.0
"""Before a file is tried again that the disk had no room for."""
TELL_S = 10.0
"""At least so long between two lines about failures, or about waiting."""


class Fetcher:
    """Fetches what is wanted. Safe to call from several threads."""

    def __init__(self, cache: ShardCache, timeout_s: float) -> None:
        """``timeout_s``: seconds that `need` waits while nothing at all arrives."""
        self.cache, self._timeout_s = cache, timeout_s
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._urgent: dict[str, Wanted] = {}
        self._planned: dict[str, Wanted] = {}
        self._busy: set[str] = set()
        self._later: dict[str, float] = {}
        """Not to be tried before, by `time.monotonic`."""
        self._refused: dict[str, str] = {}
        self._trouble = ""
        """Why the last attempt failed, if it did."""
        self._told = float("-inf")
        self._threads: list[threading.Thread] = []
        self.received, self.failures, self.waited_s = 0, 0, 0.0

    def want(self, files: Iterable[Wanted]) -> None:
        """Fetch ``files`` in this order, instead of those of the last call. Returns at once."""
        with self._changed:
            self._planned = {wanted.sha256: wanted for wanted in files}
            self._start()
            self._changed.notify_all()

    def need(self, wanted: Wanted) -> Lease:
        """Have ``wanted`` here, fetched before all others if it is not.

        Raises `DataError` where it cannot be had: at once if it is not what the manifest says, else when nothing has
        arrived for the time-out.
        """
        lease = self._lease(wanted)
        return lease if lease else self._wait_for(wanted)

    def close(self) -> None:
        """Stop fetching. Waits for what is being written, but not for a store that hangs."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1)

    def _wait_for(self, wanted: Wanted) -> Lease:
        begin = moved = time.monotonic()
        progress = None
        with self._changed:
            self._urgent[wanted.sha256] = wanted
            self._start()
        try:
            while (lease := self._lease(wanted)) is None:
                now = time.monotonic()
                if (found := (self.received, self.cache.activity(wanted.sha256))) != progress:
                    progress, moved = found, now
                self._raise_if_hopeless(wanted, now - moved)
                self._tell(f"waiting for {wanted}", now, begin)
                with self._changed:
                    self._changed.notify_all()
                    self._changed.wait(LOOK_S)
        finally:
            with self._changed:
                self._urgent.pop(wanted.sha256, None)
                self.waited_s += time.monotonic() - begin
        return lease

    def _raise_if_hopeless(self, wanted: Wanted, still_s: float) -> None:
        with self._changed:
            refused, trouble = self._refused.get(wanted.sha256), self._trouble
        if refused:
            raise DataError(refused)
        if still_s > self._timeout_s:
            why = trouble or "the store, or another process that fetches it, hangs"
            raise DataError(
                f"{wanted} is needed, and nothing arrived for {self._timeout_s:g} s (data.read_timeout_s): {why}; "
                "the same command resumes when the store answers"
            )

    def _lease(self, wanted: Wanted) -> Lease | None:
        try:
            return self.cache.lease(wanted.sha256, wanted.bytes)
        except OSError as error:
            raise DataError(f"{self.cache.path(wanted.sha256)} cannot be read: {error.strerror}") from None

    def _start(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, name=f"fetcher-{number}", daemon=True) for number in range(THREADS)
            ]
            for thread in self._threads:
                thread.start()

    def _run(self) -> None:
        while (wanted := self._next()) is not None:
            try:
                self._fetch(wanted)
            except StoppedError:
                pass
            except CacheFullError as error:
                # Until somebody has done with a file. Only whoever needs this one must hear of it.
                self._trouble = str(error)
                self._put_off(wanted, AGAIN_S)
            except RefusedError as error:
                self._failed(str(error))
                with self._changed:
                    self._refused[wanted.sha256] = str(error)
            except OSError as error:
                self._failed(f"{self.cache.folder} cannot be written: {error.strerror or error}")
                self._put_off(wanted, AGAIN_S)
            except Exception as error:  # noqa: BLE001 - it must not end the thread, whatever it is
                self._failed(f"{wanted} was not fetched: {type(error).__name__}: {error}")
                self._put_off(wanted, AGAIN_S)
            finally:
                with self._changed:
                    self._busy.discard(wanted.sha256)
                    self._changed.notify_all()

    def _next(self) -> Wanted | None:
        """The file to fetch now; None when all is over."""
        with self._changed:
            while not self._stopped.is_set():
                now = time.monotonic()
                for wanted in [*self._urgent.values(), *self._planned.values()]:
                    key = wanted.sha256
                    if key in self._busy or key in self._refused or self._later.get(key, 0.0) > now:
                        continue
                    if self.cache.has(key):
                        self._planned.pop(key, None)
                        continue
                    self._busy.add(key)
                    return wanted
                self._changed.wait(LOOK_S if self._urgent or self._planned else None)
        return None

    def _fetch(self, wanted: Wanted) -> None:
        claim = self.cache.claim(wanted.sha256, wanted.bytes)
        if claim is None:
            self._put_off(wanted, LOOK_S)
            return
        download(wanted, claim, Talk(self._stopped.wait, self._arrived, lambda error: self._failed(str(error))))
        log.info("fetched %s (%s MB)", wanted, f"{wanted.bytes / 1e6:,.1f}")

    def _put_off(self, wanted: Wanted, seconds: float) -> None:
        with self._changed:
            self._later[wanted.sha256] = time.monotonic() + seconds

    def _arrived(self, count: int) -> None:
        with self._changed:
            self.received += count
            self._trouble = ""

    def _failed(self, why: str) -> None:
        with self._changed:
            self.failures += 1
            self._trouble = scrub(why)
            is_time = time.monotonic() - self._told > TELL_S
            if is_time:
                self._told = time.monotonic()
        if is_time:
            log.warning("fetching ahead: %s", self._trouble)

    def _tell(self, what: str, now: float, begin: float) -> None:
        if now - begin > TELL_S and now - self._told > TELL_S:
            self._told = now
            trouble = f": {self._trouble}" if self._trouble else f", {self.received / 1e6:,.0f} MB have arrived so far"
            log.warning("%s since %.0f s%s", what, now - begin, trouble)
