"""A dataset behind a URL as a folder of this machine, for whoever reads all of it."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mypt_dist.data.manifest import FILE
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.remote.config import GIB, CacheConfig
from mypt_dist.data.remote.download import Wanted
from mypt_dist.data.remote.fetcher import Fetcher
from mypt_dist.data.remote.folder import RemoteFolder, read_manifest
from mypt_dist.errors import ConfigError

TIMEOUT_S = 60.0
"""Without a single byte."""


@contextmanager
def as_folder(url: str, progress: Progress | None = None, cache: CacheConfig | None = None) -> Iterator[Path]:
    """A folder of links to the files of the dataset behind ``url``, which are fetched into the cache.

    Raises `ConfigError` where there is no dataset or no room for it, `DataError` where it cannot be had.
    """
    folder, manifest = RemoteFolder(url), read_manifest(url)
    files = [Wanted.of(folder, entry) for entry in manifest.files()]
    with ExitStack() as stack:
        fetcher = Fetcher((cache or CacheConfig()).open(), TIMEOUT_S)
        stack.callback(fetcher.close)
        size, limit = sum(wanted.bytes for wanted in files), fetcher.cache.max_bytes
        if size > limit:
            raise ConfigError(
                f"{folder.url} has {size / GIB:,.3f} GiB, the cache {fetcher.cache.folder} may hold {limit / GIB:,.3f}"
                ": make room, or have XDG_CACHE_HOME name a folder on a larger disk"
            )
        links = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mypt-dataset-")))
        fetcher.want(files)
        done = BytesDone(size, progress)
        for wanted in files:
            lease = stack.enter_context(closing(fetcher.need(wanted)))
            link = links / wanted.file
            link.parent.mkdir(exist_ok=True, parents=True)
            link.symlink_to(lease.path.resolve())
            done.add(wanted.bytes)
        (links / FILE).write_bytes(manifest.to_bytes())
        yield links
