"""What a run needs of datasets behind URLs: their manifests, token streams that fetch what they read, a look ahead."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mypt_dist.data.companions import Companion
from mypt_dist.data.loader import BatchShape
from mypt_dist.data.manifest import DatasetManifest, companion_shards
from mypt_dist.data.order import Order, Shuffle
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.config import GIB, CacheConfig
from mypt_dist.data.remote.download import Wanted
from mypt_dist.data.remote.fetcher import Fetcher
from mypt_dist.data.remote.folder import RemoteFolder
from mypt_dist.data.remote.lookahead import Lookahead, Reach
from mypt_dist.data.remote.plan import Layout, fetched_an_epoch, needed_bytes
from mypt_dist.data.remote.shard import Content, RemoteShard
from mypt_dist.data.stream import Reading, TokenStream
from mypt_dist.errors import ConfigError

log = logging.getLogger(__name__)


class Supply:
    """Of one rank. Costs nothing where all datasets are folders."""

    def __init__(self, config: CacheConfig, timeout_s: float) -> None:
        """``timeout_s``: see `Fetcher`."""
        self._config, self._timeout_s = config, timeout_s
        self._fetcher: Fetcher | None = None
        self._shards: dict[tuple[str, str], list[RemoteShard]] = {}
        """By source and split; what stands beside a split, behind a dot."""
        self._lookahead: Lookahead | None = None

    def stream(self, place: DatasetPlace, manifest: DatasetManifest, split: str, reading: Reading) -> TokenStream:
        """The tokens of a split, in a folder or behind a URL; of that nothing is fetched yet.

        Raises `ConfigError` and `DataError` as `TokenStream.open`.
        """
        if isinstance(place, Path):
            return TokenStream.open(place, manifest, split, reading)
        folder, fetcher = RemoteFolder(place), self._the_fetcher()
        entries = manifest.split(split).shards
        content = Content.tokens(manifest.dtype, manifest.tokenizer.fingerprint)
        shards = [RemoteShard(Wanted.of(folder, e), e, content, fetcher, reading.reader) for e in entries]
        self._shards[reading.source, split] = shards
        beside: dict[Companion, TokenStream] = {}
        for kind in manifest.companions:
            # Never evicted, as what is evaluated on: the look ahead knows tokens only, and these are small.
            others = self._shards[reading.source, f"{split}.{kind}"] = [
                RemoteShard(Wanted.of(folder, e), e, Content.beside(kind), fetcher, reading.reader)
                for e in companion_shards(entries, kind)
            ]
            beside[kind] = TokenStream(f"{folder.url}/{split} ({kind})", others, reading)
        return TokenStream(f"{folder.url}/{split}", shards, reading, beside=beside, row_length=manifest.row_length)

    def check_room(self, sources: Sequence[str], shuffle: Shuffle, windows: int, length: int) -> None:
        """Raise `ConfigError` where the cache cannot hold what ``windows`` windows of ``length`` tokens read."""
        if self._fetcher is None:
            return
        limit, (train_shards, pinned) = self._fetcher.cache.max_bytes, self._parted(sources)
        train = [Layout.of([shard.entry for shard in shards]) for shards in train_shards if shards]
        kept = sum(shard.entry.bytes for shard in pinned)
        needed = kept + sum(needed_bytes(layout, shuffle, windows, length) for layout in train)
        if needed > limit:
            why = "every step reads from all shards" if shuffle == "full" else "a few steps read so much"
            other = ", or data.shuffle=blocks, which needs less at once and fetches more" if shuffle == "full" else ""
            raise ConfigError(
                f"data.cache.max_gib: the cache {self._fetcher.cache.folder} may hold {limit / GIB:,.3f} GiB, but with "
                f"data.shuffle={shuffle} {why}, {needed / GIB:,.3f} GiB with what is evaluated on: allow it that much, "
                f"put data.cache.path on a larger disk{other}"
            )
        again = sum(fetched_an_epoch(layout, length, limit - kept) for layout in train)
        if shuffle == "blocks" and again:
            log.warning(
                "the cache holds less than the datasets, and each block of windows lies in other shards: "
                "an epoch fetches about %.1f GiB",
                again / GIB,
            )

    def follow(self, order: Order, shape: BatchShape, sources: Sequence[str], near: int) -> None:
        """Look ahead of training from now on.

        ``sources``: names in the numbering of ``order``. ``near``: steps that are gathered at once.
        """
        if self._fetcher is None:
            return
        shards, pinned = self._parted(sources)
        room = self._fetcher.cache.max_bytes - sum(shard.entry.bytes for shard in pinned)
        fits = sum(shard.entry.bytes for source in shards for shard in source) <= room
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE") or shape.ranks)
        reach = Reach(near, None if fits else room // sharing, pinned)
        self._lookahead = Lookahead(order, shape, shards, self._fetcher, reach)

    def fill(self, position: int) -> None:
        """Have what the steps from sample ``position`` on read first. Raises `DataError`."""
        if self._lookahead:
            self._lookahead.fill(position)

    def at(self, position: int) -> None:
        """Training is at sample ``position``."""
        if self._lookahead:
            self._lookahead.at(position)

    def metrics(self) -> Mapping[str, float]:
        """What this rank fetched since its start, and how long it waited for shards; nothing without remote data."""
        if self._fetcher is None:
            return {}
        return {
            "data/fetched_mb": self._fetcher.received / 1e6,
            "data/fetch_wait_s": self._fetcher.waited_s,
            "data/fetch_failures": self._fetcher.failures,
        }

    def close(self) -> None:
        """Stop fetching, and let go of all shards."""
        if self._lookahead:
            self._lookahead.close()
        if self._fetcher:
            self._fetcher.close()
        for shard in (shard for shards in self._shards.values() for shard in shards):
            shard.release()

    def _the_fetcher(self) -> Fetcher:
        if self._fetcher is None:
            self._fetcher = Fetcher(self._config.open(), self._timeout_s)
        return self._fetcher

    def _parted(self, sources: Sequence[str]) -> tuple[list[list[RemoteShard]], list[RemoteShard]]:
        """The shards that training reads, by source, and those of evaluations, which are read again and again."""
        train = [self._shards.get((name, "train"), []) for name in sources]
        others = self._shards.keys() - {(name, "train") for name in sources}
        return train, [shard for key in sorted(others) for shard in self._shards[key]]
