"""Reading plain and packed files."""

import bz2
import gzip
import io
import lzma

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data.prepare import streams
from mypt_dist.data.prepare.streams import PACKINGS, TextBytes, UnreadableError

TEXT = b"".join(b"line %d of some text\n" % i for i in range(20000))


def zst(data, **options):
    return zstandard.ZstdCompressor(**options).compress(data)


def write(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


def read_all(path, packing, size=4096):
    with TextBytes(path, packing) as file:
        parts = []
        while part := file.read(size):
            assert len(part) <= size
            parts.append(part)
        return b"".join(parts), file


PACKED = {
    "plain": ("", TEXT),
    "gzip": (".gz", gzip.compress(TEXT)),
    "gzip in two members": (".gz", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
    "bzip2": (".bz2", bz2.compress(TEXT)),
    "bzip2 in two streams": (".bz2", bz2.compress(TEXT[:100]) + bz2.compress(TEXT[100:])),
    "xz": (".xz", lzma.compress(TEXT)),
    "xz in two streams, padded": (".xz", lzma.compress(TEXT[:100]) + bytes(8) + lzma.compress(TEXT[100:]) + bytes(4)),
    "zstd": (".zst", zst(TEXT)),
    "zstd with checksum": (".zst", zst(TEXT, write_checksum=True)),
    "zstd in three frames": (".zst", zst(TEXT[:9]) + zst(b"") + zst(TEXT[9:])),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("size", [1000, 1 << 17])
def test_text_comes_back(tmp_path, name, size):
    packing, data = PACKED[name]
    assert read_all(write(tmp_path, data), packing, size)[0] == TEXT


@pytest.mark.parametrize("packing", ["", *PACKINGS])
def test_an_empty_file_is_empty_text(tmp_path, packing):
    text, file = read_all(write(tmp_path, b""), packing)
    assert text == b""
    assert not file.has_text


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd", "zstd with checksum", "zstd in three frames"])
def test_a_truncated_file_is_noticed_wherever_it_ends(tmp_path, name):
    packing, data = PACKED[name]
    ends_of_frames = {len(zst(TEXT[:9])), len(zst(TEXT[:9]) + zst(b""))} if name == "zstd in three frames" else set()
    for end in {*range(1, 100), *range(len(data) // 2, len(data), 997), *range(len(data) - 20, len(data))}:
        if end in ends_of_frames:
            continue
        with pytest.raises(UnreadableError):
            read_all(write(tmp_path, data[:end]), packing)


def test_zstd_that_cannot_be_compressed_is_noticed_when_truncated(tmp_path):
    import random

    data = zst(random.Random(0).randbytes(300_000))
    for end in (200_000, len(data) - 1, len(data) - 3):
        with pytest.raises(UnreadableError, match="compressed data is damaged"):
            read_all(write(tmp_path, data[:end]), ".zst")


@given(st.binary(max_size=300), st.integers(1, 400))
@settings(deadline=None, max_examples=50)
def test_the_end_mark_is_never_text(tmp_path_factory, text, size):
    folder = tmp_path_factory.mktemp("zst")
    text += b"\x17" * 100
    assert read_all(write(folder, zst(text)), ".zst", size)[0] == text


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_file_that_is_not_packed_is_noticed(tmp_path, packing):
    with pytest.raises(UnreadableError):
        read_all(write(tmp_path, b"plain text, whatever its name says"), packing)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_garbage_behind_the_last_stream_is_noticed(tmp_path, name):
    packing, data = PACKED[name]
    with pytest.raises(UnreadableError):
        read_all(write(tmp_path, data + b"garbage that is no stream"), packing)


def test_xz_may_not_ask_for_more_memory_than_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_XZ_MEMORY", 1 << 20)
    with pytest.raises(UnreadableError, match="Memory usage limit"):
        read_all(write(tmp_path, PACKED["xz"][1]), ".xz")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_progress_counts_bytes_on_disk(tmp_path, name):
    packing, data = PACKED[name]
    with TextBytes(write(tmp_path, data), packing) as file:
        assert file.read_up_to(1 << 30) == TEXT
        assert file.has_text
        assert file.advanced() == len(data)
        assert file.advanced() == 0


def test_reading_up_to_a_size_stops_there(tmp_path):
    with TextBytes(write(tmp_path, b"abcdef"), "") as file:
        assert file.read_up_to(4) == b"abcd"
        assert file.read_up_to(4) == b"ef"


def test_a_file_that_cannot_be_opened_or_read_says_why(tmp_path, monkeypatch):
    with pytest.raises(UnreadableError, match="No such file or directory"):
        TextBytes(tmp_path / "absent", "")
    with pytest.raises(UnreadableError, match="Is a directory"):
        TextBytes(tmp_path, "")

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with TextBytes(write(tmp_path, b"abc"), "") as file:
        file._reader = Broken()
        with pytest.raises(UnreadableError, match="Input/output error"):
            file.read()
