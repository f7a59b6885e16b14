"""Streams over a cache give the tokens of the folder; which shards are fetched follows from the order alone."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_files import conversations, prepared
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data.loader import BatchShape, Loader, Prefetch, TokenGather
from mypt_dist.data.manifest import DatasetManifest, ShardEntry
from mypt_dist.data.order import BLOCK, Order, Samples, SourceShape
from mypt_dist.data.remote.config import GIB, CacheConfig
from mypt_dist.data.remote.lookahead import Lookahead, Reach
from mypt_dist.data.remote.plan import Layout, in_order_of_use, needed_bytes, part_of_rank
from mypt_dist.data.remote.shard import Content, RemoteShard
from mypt_dist.data.remote.supply import Supply
from mypt_dist.data.stream import Reading, TokenStream
from mypt_dist.errors import ConfigError, DataError

CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, to be damaged."""
    return shutil.copytree(dataset, tmp_path / "store")


@pytest.fixture
def supply(tmp_path: Path) -> Iterator[Supply]:
    made = Supply(CacheConfig(path=tmp_path / "cache"), timeout_s=5.0)
    yield made
    made.close()


def opened(supply: Supply, folder: Path, reading: Reading | None = None) -> TokenStream:
    manifest = DatasetManifest.read(folder)
    return supply.stream(f"file://{folder}", manifest, "train", reading or Reading())


def tokens(stream: TokenStream) -> list[int]:
    out = np.empty((1, len(stream)), dtype=np.int64)
    assert stream.gather([0], out) == {}
    return out[0].tolist()


@pytest.mark.parametrize("reader", ["memmap", "pread"])
def test_a_remote_stream_gives_the_tokens_of_the_folder(reader: str, copy: Path, supply: Supply) -> None:
    reading = Reading(reader=reader)  # type: ignore[arg-type]
    local = TokenStream.open(copy, DatasetManifest.read(copy), "train")
    remote = opened(supply, copy, reading)
    assert tokens(remote) == tokens(local)
    shutil.rmtree(copy)
    for shards in supply._shards.values():
        for shard in shards:
            shard.release()
    assert tokens(remote) == tokens(remote)


def test_nothing_is_fetched_before_it_is_read(copy: Path, supply: Supply, tmp_path: Path) -> None:
    stream = opened(supply, copy)
    stream.gather([0], np.empty((1, 5), dtype=np.int64))
    first = DatasetManifest.read(copy).splits.train.shards[0]
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != "lock"] == [first.sha256]


@pytest.mark.parametrize("with_checksums", [True, False])
def test_damage_in_the_cache_is_fetched_again(
    with_checksums: bool, copy: Path, supply: Supply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_checksums:
        monkeypatch.setattr("mypt_dist.data.shard_tokens.checksums", lambda text: [])
    right = tokens(opened(supply, copy))
    supply.close()
    for path in (tmp_path / "cache").iterdir():
        if path.name != "lock":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    again = Supply(CacheConfig(path=tmp_path / "cache"), timeout_s=5.0)
    assert tokens(opened(again, copy)) == right
    again.close()


def test_a_shard_that_cannot_be_had_ends_the_read(copy: Path, supply: Supply) -> None:
    stream = opened(supply, copy)
    shard = copy / DatasetManifest.read(copy).splits.train.shards[1].file
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-00001\.bin has .* bytes, dataset\.json says"):
        tokens(stream)


@settings(deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=3), st.integers(1, 30), st.data())
def test_shards_are_listed_as_windows_come_to_them(sources: list[list[int]], length: int, data: st.DataObject) -> None:
    ends = [np.cumsum(sizes) for sizes in sources]
    fitting = [number for number, sizes in enumerate(sources) if sum(sizes) >= length]
    if not fitting:
        return
    drawn = data.draw(st.lists(st.sampled_from(fitting), max_size=12))
    starts = [data.draw(st.integers(0, sum(sources[source]) - length)) for source in drawn]
    expected = []
    for source, start in zip(drawn, starts, strict=True):
        owner = np.repeat(np.arange(len(sources[source])), sources[source])
        expected += [(source, int(shard)) for shard in np.unique(owner[start : start + length])]
    columns = [np.array(column, dtype=np.int64) for column in (drawn, starts)]
    samples = Samples(columns[0], columns[0], columns[0], columns[1])
    assert in_order_of_use(samples, length, ends) == list(dict.fromkeys(expected))
    assert in_order_of_use(samples, length, [None for _ in ends]) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(50, 4000), min_size=1, max_size=30), st.integers(1, 3000), st.integers(0, 1 << 20))
def test_a_cache_of_the_needed_size_holds_what_windows_in_a_row_read(
    sizes: list[int], windows: int, first: int
) -> None:
    layout, context = Layout(np.array(sizes), np.array(sizes) * 2), 3
    order = Order([SourceShape("a", sum(sizes))], context=context, seed=1, shuffle="blocks")
    touched = in_order_of_use(order.samples(first, windows), context + 1, [layout.ends])
    assert sum(sizes[shard] * 2 for _, shard in touched) <= needed_bytes(layout, "blocks", windows, context + 1)
    assert needed_bytes(layout, "full", windows, context + 1) == 2 * sum(sizes)


def test_blocks_need_less_at_once_than_everything() -> None:
    layout = Layout(np.full(1000, 100_000), np.full(1000, 200_000))
    assert needed_bytes(layout, "blocks", BLOCK, 17) < int(layout.bytes.sum()) / 50


def test_ranks_look_at_what_they_read_themselves() -> None:
    samples = Order([SourceShape("a", 1000)], context=3, seed=1).samples(0, 16)
    parts = [part_of_rank(samples, 8, rank, 2) for rank in (0, 1)]
    assert parts[0].start.tolist() == samples.start.tolist()[:4] + samples.start.tolist()[8:12]
    assert sorted([*parts[0].window, *parts[1].window]) == sorted(samples.window)


@pytest.mark.parametrize(("shuffle", "complaint"), [("full", "every step reads from all"), ("blocks", "a few steps")])
def test_a_cache_too_small_for_the_order_is_refused_with_its_size(
    shuffle: str, complaint: str, copy: Path, tmp_path: Path
) -> None:
    size = DatasetManifest.read(copy).bytes_of("train")
    supply = Supply(CacheConfig(path=tmp_path / "cache", max_gib=(size - 1) / GIB), timeout_s=5.0)
    opened(supply, copy)
    with pytest.raises(ConfigError, match=rf"data\.cache\.max_gib: .*data\.shuffle={shuffle} {complaint}"):
        supply.check_room(["main"], shuffle, 10, 17)  # type: ignore[arg-type]
    enough = Supply(CacheConfig(path=tmp_path / "cache", max_gib=(size + 1) / GIB), timeout_s=5.0)
    opened(enough, copy)
    enough.check_room(["main"], shuffle, 10, 17)  # type: ignore[arg-type]


def test_a_look_ahead_fetches_what_fits_and_keeps_it(copy: Path, supply: Supply) -> None:
    stream = opened(supply, copy)
    order = Order([SourceShape("main", len(stream))], context=16, seed=1)
    supply.follow(order, BatchShape(8, 8, 16), ["main"], near=2)
    supply.fill(0)
    supply.at(0)
    shards, deadline = supply._shards["main", "train"], time.monotonic() + 120
    while not all(shard.is_held for shard in shards):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cache_smaller_than_the_dataset_gives_the_same_samples(copy: Path, tmp_path: Path) -> None:
    manifest = DatasetManifest.read(copy)
    largest = max(entry.bytes for entry in manifest.splits.train.shards)
    supply = Supply(CacheConfig(path=tmp_path / "cache", max_gib=2.5 * largest / GIB), timeout_s=60.0)
    local, remote = TokenStream.open(copy, manifest, "train"), opened(supply, copy)
    order = Order([SourceShape("main", len(local))], context=16, seed=1, shuffle="blocks")
    shape, sizes = BatchShape(128, 128, 16), []
    supply.follow(order, shape, ["main"], near=1)
    lengths = np.ones(manifest.vocab_size, dtype=np.uint16)
    right, found = (
        Loader(order, TokenGather([stream], lengths, manifest.vocab_size), shape, device=CPU, ahead=ahead)
        for stream, ahead in ((local, Prefetch(0)), (remote, Prefetch(0, 60.0, supply.at)))
    )
    for position in range(0, 5120, 128):
        (expected,), (batch,) = (loader.step(position).micro_batches for loader in (right, found))
        assert torch.equal(batch.input_ids, expected.input_ids)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()))
    supply.close()
    assert max(sizes) <= 2.5 * largest < manifest.bytes_of("train")


def test_masks_behind_a_url_say_what_those_of_the_folder_say(memory: Path, supply: Supply) -> None:
    manifest = prepared(memory, conversations(30), weights={"close": 0.5}).manifest
    folder, lengths = memory / "chat", np.ones(manifest.vocab_size, dtype=np.uint16)
    local, remote = TokenStream.open(folder, manifest, "train"), opened(supply, folder)
    order = Order([SourceShape("main", len(local), rows=True)], context=255, seed=1)
    supply.check_room(["main"], "full", 8, 256)
    supply.follow(order, BatchShape(4, 4, 255), ["main"], near=2)
    supply.fill(0)
    right, found = (
        TokenGather([stream], lengths, manifest.vocab_size).batch(order.samples(0, 4), 255)
        for stream in (local, remote)
    )
    assert right.num_targets == found.num_targets > 0
    assert right.label_weights is not None
    for one, two in ((right.labels, found.labels), (right.label_weights, found.label_weights)):
        assert torch.equal(one, two)
    assert right.segment_ids is not None
    assert torch.equal(right.segment_ids, found.segment_ids)
    pinned = supply._parted(["main"])[1]
    assert {shard.entry.file for shard in pinned} == {
        entry.file
        for entry in manifest.files("train")
        if entry.file.endswith((".mask.bin", ".weights.bin", ".segments.bin"))
    }


class Noted:
    """Stands in for a fetcher, and for the cache it fills: nothing ever comes."""

    def __init__(self) -> None:
        self.cache = self
        self.wanted: list[str] = []

    def path(self, sha256: str) -> Path:
        return Path("/nowhere") / sha256

    def has(self, sha256: str) -> bool:
        return False

    def want(self, files: list[object]) -> None:
        self.wanted = [wanted.file for wanted in files]  # type: ignore[attr-defined]


def test_the_look_ahead_ends_with_the_budget_and_is_in_the_order_of_use(dataset: Path) -> None:
    manifest, noted = DatasetManifest.read(dataset), Noted()
    entries = [
        ShardEntry(file=f"train/{number}", bytes=2 * 2000 + 64, tokens=2000, sha256=f"{number:064x}")
        for number in range(50)
    ]
    shards = [
        RemoteShard(entry, entry, Content.tokens(manifest.dtype, manifest.tokenizer.fingerprint), noted, "memmap")  # type: ignore[arg-type]
        for entry in entries
    ]
    order = Order([SourceShape("a", 100_000)], context=3, seed=1, shuffle="blocks")
    shape = BatchShape(8, 8, 3)
    for budget, count in ((3 * 4064, 3), (None, 50)):
        ahead = Lookahead(order, shape, [shards], noted, Reach(1, budget))  # type: ignore[arg-type]
        ahead._want(ahead._upcoming(1 << 10))
        samples = order.samples(1 << 10, 1 << 16)
        used = in_order_of_use(samples, 4, [Layout.of(entries).ends])
        assert noted.wanted == [f"train/{shard}" for _, shard in used][: len(noted.wanted)]
        assert len(noted.wanted) == count
