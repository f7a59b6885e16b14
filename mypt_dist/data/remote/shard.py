"""A shard of a remote dataset while training: in the cache when its tokens are asked for."""

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.companions import COMPANIONS, Companion
from mypt_dist.data.files import PatientFiles
from mypt_dist.data.manifest import Dtype, ShardEntry
from mypt_dist.data.remote.cache import Lease
from mypt_dist.data.remote.download import Wanted
from mypt_dist.data.remote.fetcher import Fetcher
from mypt_dist.data.shard_tokens import UNSEEN, Reader, ShardTokens
from mypt_dist.data.shards import little_endian, open_companion, open_shard
from mypt_dist.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds."""

    dtype: "np.dtype[Any]"
    open: Callable[[Path, ShardEntry], NDArray[Any]]

    @classmethod
    def tokens(cls, dtype: Dtype, fingerprint: str) -> "Content":
        """Of a tokenizer."""
        return cls(little_endian(dtype), lambda folder, entry: open_shard(folder, entry, dtype, fingerprint))

    @classmethod
    def beside(cls, kind: Companion) -> "Content":
        """What stands beside tokens."""
        return cls(COMPANIONS[kind], lambda folder, entry: open_companion(folder, entry, kind))


class RemoteShard(ShardTokens):
    """Like a shard of a folder, but that it is held only while it is read.

    A shard is fetched whole and its sha256 compared; its blocks are compared with their checksums all the same, since
    it may have been in the cache for months.
    """

    def __init__(self, wanted: Wanted, entry: ShardEntry, content: Content, fetcher: Fetcher, reader: Reader):
        nothing: NDArray[Any] = np.empty(0, content.dtype)
        # One file, opened and closed with the lease: whoever keeps it open keeps its room on the disk.
        super().__init__(nothing, fetcher.cache.path(wanted.sha256), entry, PatientFiles(), "pread")
        self.wanted = wanted
        self._content, self._fetcher, self._is_mapped = content, fetcher, reader == "memmap"
        self._lock = threading.RLock()
        self._lease: Lease | None = None
        self._is_fetched_again = False

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """As `ShardTokens.read`. Raises `DataError` where the shard cannot be had."""
        with self._lock:
            self.hold()
            return super().read(begin, end)

    def damaged(self, begin: int, end: int) -> list[int]:
        """As `ShardTokens.damaged`; what was damaged in the cache is fetched anew, once."""
        with self._lock:
            self.hold()
            before = bytes(self.state)
            found = super().damaged(begin, end)
            if any(before[number] == UNSEEN for number in found) and not self._is_fetched_again:
                self._fetch_again()
                self.state[:] = before
                found = super().damaged(begin, end)
            if self.view is not None:
                self._files.close()
            return found

    def hold(self) -> None:
        """Have it here, and keep it from being evicted. Raises `DataError`."""
        with self._lock:
            if self._lease is None:
                lease = self._fetcher.need(self.wanted)
                try:
                    self._keep(lease)
                    is_right = bool(self._crcs) or self._is_whole()
                except DataError:
                    if self._is_fetched_again:
                        raise
                    is_right = False
                if not is_right:
                    self._fetch_again()

    @property
    def is_held(self) -> bool:
        """Whether it is kept from being evicted."""
        return self._lease is not None

    def hold_if_here(self) -> None:
        """The same, where the cache has it and nobody is at it. Waits for nothing, raises what `hold` raises."""
        if self._lock.acquire(blocking=False):
            try:
                if self._fetcher.cache.has(self.wanted.sha256):
                    self.hold()
            finally:
                self._lock.release()

    def release(self) -> None:
        """Let it be evicted, if nobody is at it. The next read fetches it again if it must."""
        if self._lock.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._lock.release()

    def _keep(self, lease: Lease) -> None:
        self._lease = lease
        try:
            folder, entry = lease.path.parent, self.entry.model_copy(update={"file": lease.path.name})
            view = self._content.open(folder, entry)
        except BaseException:
            self._let_go()
            raise
        if self._is_mapped:
            self.view = np.asarray(view)

    def _let_go(self) -> None:
        if self._lease is not None:
            self.view = None
            self._files.close()
            self._lease.close()
            self._lease = None

    def _fetch_again(self) -> None:
        log.warning("%s is damaged in the cache: it is fetched again", self.path)
        self._is_fetched_again = True
        self._let_go()
        self._fetcher.cache.discard(self.wanted.sha256)
        self._keep(self._fetcher.need(self.wanted))

    def _is_whole(self) -> bool:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.wanted.sha256
