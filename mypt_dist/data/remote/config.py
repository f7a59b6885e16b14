"""The section ``data.cache`` of a run file."""

from pydantic import Field

from mypt_dist.config import Config, SafePath
from mypt_dist.data.in_place import user_cache
from mypt_dist.data.remote.cache import ShardCache

GIB = 1 << 30


class CacheConfig(Config):
    """Where shards of datasets behind URLs are kept on each machine. All ranks and runs there may share one cache."""

    path: SafePath | None = None
    """A folder on a disk of the machine itself. Null: ``$XDG_CACHE_HOME/mypt-dist/shards``, or the same below
    ``~/.cache``."""
    max_gib: float | None = Field(default=None, gt=0)
    """What all files in it may have together; those longest unused go first. Null: nine tenths of what is free on its
    disk when a run starts, or taken by the cache already."""

    def open(self) -> ShardCache:
        """The cache. Raises `ConfigError`."""
        limit = None if self.max_gib is None else int(self.max_gib * GIB)
        return ShardCache(self.path or user_cache() / "shards", limit)
