"""Fetching from a store that fails: right or refused, never half; training hears only of what it cannot do without."""

import errno
import logging
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from remote_stores import Fails, FaultyFolder, fetcher_of

from mypt_dist.data.remote import download, fetcher
from mypt_dist.data.remote.folder import PIECE, RemoteFolder, StoreError, read_manifest
from mypt_dist.errors import ConfigError, DataError

FOREVER = float("inf")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE", 4)
    monkeypatch.setattr(download, "WAITS", (0.0, 0.01))
    monkeypatch.setattr(fetcher, "LOOK_S", 0.01)
    monkeypatch.setattr(fetcher, "AGAIN_S", 0.01)


@pytest.fixture
def store() -> FaultyFolder:
    return FaultyFolder()


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir() if path.name != "lock")


def test_what_is_needed_comes_whole(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    with closing(fetcher_of(tmp_path)) as fetch, closing(fetch.need(wanted)) as lease:
        assert lease.path.read_bytes() == b"0123456789"
    assert store.asked == [("shard", 0), ("shard", 4), ("shard", 8)]
    assert cached(tmp_path) == [wanted.sha256]


def test_a_store_that_fails_for_a_while_costs_no_byte_twice(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    store.fault = Fails(7, begin=4)
    with closing(fetcher_of(tmp_path)) as fetch, closing(fetch.need(wanted)) as lease:
        assert lease.path.read_bytes() == b"0123456789"
        assert fetch.failures == 7
    assert [begin for _, begin in store.asked] == [0, *[4] * 8, 8]


def test_a_store_that_stays_away_ends_the_wait_and_says_why(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    store.fault = Fails(FOREVER, begin=4)
    with closing(fetcher_of(tmp_path, timeout_s=0.3)) as fetch:
        with pytest.raises(DataError, match=r"test://store/data/shard is needed.*0\.3 s.*the store is down") as error:
            fetch.need(wanted)
        assert error.value.exit_code == 3
        assert not fetch.cache.has(wanted.sha256)
    assert cached(tmp_path) == []


def test_what_is_fetched_ahead_and_fails_is_told_and_hurts_nobody(
    store: FaultyFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = store.file("bad", b"aaaa"), store.file("good", b"bbbb")
    store.files["bad"] = b"cccc"
    with caplog.at_level(logging.WARNING), closing(fetcher_of(tmp_path)) as fetch:
        fetch.want([bad, good])
        fetch.need(good).close()
        with pytest.raises(DataError):
            fetch.need(bad)
    assert "fetching ahead: test://store/data/bad has sha256" in caplog.text


def test_wrong_content_is_refused_with_both_hashes(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    store.files["shard"] = b"012345678X"
    with (
        closing(fetcher_of(tmp_path)) as fetch,
        pytest.raises(DataError, match=rf"shard has sha256 .*dataset\.json says {wanted.sha256}.*copy it there again"),
    ):
        fetch.need(wanted)
    assert cached(tmp_path) == []
    assert len(store.asked) == 6, "once more, whole, and no more"


def test_damage_on_the_way_is_made_good(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    right = store.files["shard"]
    store.files["shard"] = b"X123456789"

    def heal(name: str, begin: int) -> None:
        if begin == 8:
            store.files["shard"] = right

    store.fault = heal
    with closing(fetcher_of(tmp_path)) as fetch, closing(fetch.need(wanted)) as lease:
        assert lease.path.read_bytes() == right


@pytest.mark.parametrize("content", [b"01234", b"0123456789X", b""])
def test_an_object_of_another_length_is_refused_unread(content: bytes, store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    store.files["shard"] = content
    with (
        closing(fetcher_of(tmp_path)) as fetch,
        pytest.raises(DataError, match=rf"shard has {len(content)} bytes, dataset\.json says 10"),
    ):
        fetch.need(wanted)
    assert (store.asked, cached(tmp_path)) == ([], [])


def test_an_object_that_is_not_there_is_refused_at_once(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    store.files.clear()
    with closing(fetcher_of(tmp_path)) as fetch, pytest.raises(DataError, match="test://store/data/shard is not there"):
        fetch.need(wanted)


def test_shards_come_in_the_order_of_use_but_for_what_is_needed_now(
    store: FaultyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "THREADS", 1)
    files = [store.file(str(number), str(number).encode()) for number in range(6)]
    begun, go_on = threading.Event(), threading.Event()

    def hold(name: str, begin: int) -> None:
        begun.set()
        go_on.wait(30)

    store.fault = hold
    with closing(fetcher_of(tmp_path)) as fetch:
        fetch.want(files)
        assert begun.wait(30)
        needing = threading.Thread(target=lambda: fetch.need(files[4]).close())
        needing.start()
        while files[4].sha256 not in fetch._urgent:
            time.sleep(0.01)
        go_on.set()
        needing.join(30)
        for wanted in files:
            fetch.need(wanted).close()
    assert [name for name, _ in store.asked] == ["0", "4", "1", "2", "3", "5"]


def test_a_disk_that_is_full_ends_the_wait_and_says_so(
    store: FaultyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    wanted = store.file("shard", b"0123456789")
    with closing(fetcher_of(tmp_path, timeout_s=0.3)) as fetch:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(DataError, match="cache cannot be written: No space left on device"):
                fetch.need(wanted)
        fetch.need(wanted).close()


def test_a_cache_whose_files_are_all_in_use_ends_the_wait_and_says_so(store: FaultyFolder, tmp_path: Path) -> None:
    first, second = store.file("first", b"aaaa"), store.file("second", b"bbbb")
    with (
        closing(fetcher_of(tmp_path, timeout_s=0.3, max_bytes=6)) as fetch,
        closing(fetch.need(first)),
        pytest.raises(DataError, match="may hold 6 bytes: 4 are in use, 4 are needed"),
    ):
        fetch.need(second)


def test_two_that_share_a_cache_fetch_a_file_once(store: FaultyFolder, tmp_path: Path) -> None:
    files = [store.file(str(number), str(number).encode() * 4) for number in range(8)]
    with closing(fetcher_of(tmp_path)) as one, closing(fetcher_of(tmp_path)) as other:
        one.want(files)
        other.want(files)
        for wanted in files:
            one.need(wanted).close()
            other.need(wanted).close()
    assert sorted(store.asked) == [(str(number), 0) for number in range(8)]


def test_a_store_that_hangs_does_not_keep_a_run_from_ending(store: FaultyFolder, tmp_path: Path) -> None:
    wanted = store.file("shard", b"0123456789")
    end = threading.Event()
    store.fault = lambda name, begin: bool(end.wait(60))
    with closing(fetcher_of(tmp_path, timeout_s=0.2)) as fetch, pytest.raises(DataError, match="hangs"):
        fetch.need(wanted)
    end.set()


def test_every_failure_of_a_library_becomes_one_of_two_errors_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder("memory://user:CaNaRy0123456789@host/data?sig=CaNaRy0123456789")

    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("at memory://user:CaNaRy0123456789@host/data/x?sig=CaNaRy0123456789")

    monkeypatch.setattr(folder._system, "cat_file", explode)
    with pytest.raises(StoreError) as error:
        folder.piece("x", 0, 1)
    assert str(error.value).startswith("memory://host/data/x cannot be read: ZeroDivisionError")
    assert "CaNaRy" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("memory://nowhere/data", "no dataset at memory://nowhere/data: .*dataset.json is not there"),
        ("nothing://host/data", "nothing://host/data cannot be opened: Protocol not known"),
    ],
)
def test_a_url_without_a_dataset_is_a_mistake_of_the_user(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_manifest(url)


def test_files_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder("memory://pieces")
    content = bytes(range(256)) * 100
    folder._system.pipe("/pieces/x", content)
    assert len(content) < PIECE
    with folder.open("x") as file:
        assert file.read(1000) + file.read() == content
    assert (folder.names(), folder.size("x")) == (["x"], len(content))
