"""A store in memory that fails as it is told to, and a dataset's files in it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from mypt_dist.data.remote.cache import ShardCache
from mypt_dist.data.remote.download import Wanted
from mypt_dist.data.remote.fetcher import Fetcher
from mypt_dist.data.remote.folder import RefusedError, StoreError


class FaultyFolder:
    """Stands in for a `RemoteFolder`. ``fault`` is called with a name and the first byte before each answer."""

    url = "test://store/data"

    def __init__(self, fault: Callable[[str, int], object] = lambda name, begin: None) -> None:
        self.files: dict[str, bytes] = {}
        self.fault = fault
        self.asked: list[tuple[str, int]] = []

    def size(self, name: str) -> int:
        self.fault(name, -1)
        if name not in self.files:
            raise RefusedError(f"{self.url}/{name} is not there")
        return len(self.files[name])

    def piece(self, name: str, begin: int, end: int) -> bytes:
        self.asked.append((name, begin))
        self.fault(name, begin)
        return self.files[name][begin:end]

    def file(self, name: str, content: bytes) -> Wanted:
        """Put a file there; what a manifest says of it."""
        self.files[name] = content
        return Wanted(self, name, len(content), hashlib.sha256(content).hexdigest())  # type: ignore[arg-type]


class Fails:
    """A fault: ``times`` answers from byte ``begin`` on fail, then all is well."""

    def __init__(self, times: float, begin: int = -1) -> None:
        self.times, self._begin = times, begin

    def __call__(self, name: str, begin: int) -> None:
        if begin >= self._begin and self.times > 0:
            self.times -= 1
            raise StoreError(f"{name} cannot be read: the store is down")


def cache_of(folder: Path, max_bytes: int = 1000) -> ShardCache:
    return ShardCache(folder / "cache", max_bytes)


def fetcher_of(folder: Path, timeout_s: float = 30.0, max_bytes: int = 1000) -> Fetcher:
    return Fetcher(cache_of(folder, max_bytes), timeout_s)


def put(cache: ShardCache, content: bytes) -> str:
    """Its sha256, once it is in the cache."""
    sha256 = hashlib.sha256(content).hexdigest()
    claim = cache.claim(sha256, len(content))
    assert claim is not None
    claim.write(content, 0)
    claim.commit()
    return sha256
