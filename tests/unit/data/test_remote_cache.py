"""The cache of remote shards: whole files only, within its limit, never at the cost of a reader."""

import errno
import os
from pathlib import Path

import pytest
from remote_stores import cache_of, put

from mypt_dist.data.remote.cache import CacheFullError, ShardCache
from mypt_dist.errors import ConfigError

SHA = "ab" * 32


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir() if path.name != "lock")


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    claim = cache.claim(SHA, 4)
    assert claim is not None
    claim.write(b"1234", 0)
    assert (cache.has(SHA), cache.lease(SHA, 4)) == (False, None)
    claim.commit()
    lease = cache.lease(SHA, 4)
    assert lease is not None
    assert lease.path.read_bytes() == b"1234"
    assert cache.claim(SHA, 4) is None


def test_what_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    claim = cache_of(tmp_path).claim(SHA, 4)
    assert claim is not None
    claim.abandon()
    assert files(tmp_path) == []


def test_one_process_downloads_a_file(tmp_path: Path) -> None:
    first, second = cache_of(tmp_path), cache_of(tmp_path)
    claim = first.claim(SHA, 4)
    assert claim is not None
    assert second.claim(SHA, 4) is None
    claim.abandon()
    again = second.claim(SHA, 4)
    assert again is not None
    again.abandon()


def test_a_part_whose_writer_died_is_taken_over_and_takes_no_room(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, max_bytes=10)
    for sha256 in (SHA, "cd" * 32):
        (tmp_path / "cache" / f"{sha256}.part").write_bytes(b"half")
    claim = cache.claim(SHA, 10)
    assert claim is not None
    claim.write(b"0123456789", 0)
    claim.commit()
    assert files(tmp_path) == [SHA]
    assert (tmp_path / "cache" / SHA).read_bytes() == b"0123456789"


def test_the_file_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, max_bytes=12)
    old, used, new = (put(cache, letter * 4) for letter in (b"a", b"b", b"c"))
    for seconds, sha256 in enumerate((old, used, new)):
        os.utime(cache.path(sha256), (seconds, seconds))
    lease = cache.lease(old, 4)
    assert lease is not None
    lease.close()
    put(cache, b"dddd")
    assert [cache.has(sha256) for sha256 in (old, used, new)] == [True, False, True]


def test_what_somebody_reads_is_never_evicted(tmp_path: Path) -> None:
    cache, other = cache_of(tmp_path, max_bytes=8), cache_of(tmp_path, max_bytes=8)
    read, free = put(cache, b"aaaa"), put(cache, b"bbbb")
    os.utime(cache.path(read), (1, 1))
    lease = other.lease(read, 4)
    os.utime(cache.path(read), (1, 1))
    put(cache, b"cccc")
    assert (cache.has(read), cache.has(free)) == (True, False)
    with pytest.raises(CacheFullError, match="may hold 8 bytes: 4 are in use, 5 are needed"):
        cache.claim(SHA, 5)
    assert lease is not None
    lease.close()
    claim = cache.claim(SHA, 5)
    assert claim is not None
    claim.abandon()


def test_room_that_is_promised_counts(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, max_bytes=10)
    claim = cache.claim(SHA, 8)
    with pytest.raises(CacheFullError):
        cache_of(tmp_path, max_bytes=10).claim("cd" * 32, 8)
    assert claim is not None
    claim.abandon()


def test_a_file_of_the_wrong_size_is_none(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    sha256 = put(cache, b"1234")
    os.truncate(cache.path(sha256), 3)
    assert cache.lease(sha256, 4) is None
    assert files(tmp_path) == []


def test_a_full_disk_evicts_and_is_an_error_where_that_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(tmp_path)
    kept = put(cache, b"aaaa")
    reserve = os.posix_fallocate

    def full(descriptor: int, offset: int, size: int) -> None:
        if cache.has(kept) or size > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    put(cache, b"bbbb")
    assert not cache.has(kept)
    with pytest.raises(OSError, match="No space left"):
        cache.claim(SHA, 5)
    assert files(tmp_path) == []


def test_a_cache_without_a_limit_leaves_room_on_the_disk(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    assert 0 < ShardCache(tmp_path / "cache").max_bytes < disk.f_bavail * disk.f_frsize


def test_a_folder_that_cannot_be_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"data\.cache\.path: .* cannot be used"):
        cache_of(tmp_path)
