"""The bytes of a tensor file, read by the safetensors package and by us."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoint_doubles import dealt, piece, random_state
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load

from mypt_dist.checkpoint import Segment
from mypt_dist.checkpoint.tensor_file import Part, plan_parts, read_header


def content(part: Part) -> bytes:
    return b"".join(bytes(view) for view in part.pieces())


def test_the_safetensors_package_reads_what_we_write(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"model/a": rng.random((3, 5), dtype=np.float32), "model/b": np.arange(4), "model/c": rng.random(3) < 0.5}
    (part,) = plan_parts((piece(name, a, 0, a.size) for name, a in arrays.items()), 0, 1, 1 << 20)
    (tmp_path / "file").write_bytes(content(part))
    loaded = load(content(part))
    for name, array in arrays.items():
        assert np.array_equal(loaded[name], array.reshape(-1))
    with safe_open(tmp_path / "file", "np") as opened:
        assert sorted(opened.keys()) == sorted(arrays)


def test_the_size_told_before_writing_is_the_size_written() -> None:
    for part in plan_parts(dealt(random_state(), 1, 3), 1, 3, 100):
        assert part.bytes == len(content(part))


def test_wide_elements_come_first_and_begin_at_a_multiple_of_their_size() -> None:
    odd = piece("model/odd", np.zeros(3, dtype=np.uint8), 0, 3)
    wide = piece("model/wide", np.zeros(2, dtype=np.int64), 0, 2)
    half = piece("model/half", np.zeros(5, dtype=np.uint16), 0, 5)
    (part,) = plan_parts([odd, half, wide], 0, 1, 1 << 20)
    places = read_header(memoryview(content(part)))
    assert list(places) == ["model/wide", "model/half", "model/odd"]
    assert [place.begin % size for place, size in zip(places.values(), (8, 2, 1), strict=True)] == [0, 0, 0]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 200))
def test_parts_hold_every_segment_once_and_only_a_single_large_one_is_too_large(sizes: list[int], limit: int) -> None:
    segments = [piece(f"model/{i}", np.zeros(size, dtype=np.float32), 0, size) for i, size in enumerate(sizes)]
    parts = plan_parts(segments, 2, 4, limit)
    assert [s.name for part in parts for s in part.segments] == [s.name for s in segments if s.length]
    assert all(len(p.segments) == 1 or sum(s.bytes for s in p.segments) <= limit for p in parts)
    assert len({part.file for part in parts}) == len(parts)


def test_files_are_named_by_rank_and_part() -> None:
    names = [part.file for part in plan_parts(dealt(random_state(), 0, 1), 3, 4, 430)]
    assert names == [
        "optimizer/rank-00003-of-00004.safetensors",
        "optimizer/rank-00003-of-00004.part-01.safetensors",
        "weights/rank-00003-of-00004.safetensors",
    ]


def test_two_segments_that_start_at_the_same_element_are_refused() -> None:
    array = np.zeros(4, dtype=np.float32)
    with pytest.raises(ValueError, match="two segments are called model/a@1"):
        plan_parts([piece("model/a", array, 1, 1), piece("model/a", array, 1, 2)], 0, 1, 100)


def test_data_of_another_size_than_promised_is_refused() -> None:
    (part,) = plan_parts([Segment("model/a", (4,), "F32", 0, 4, lambda: b"123")], 0, 1, 100)
    with pytest.raises(ValueError, match="model/a should have 16 bytes, its data has 3"):
        content(part)


def test_data_is_asked_for_when_its_turn_comes_and_let_go_before_the_next() -> None:
    alive: list[int] = []

    def data(which: int) -> bytearray:
        for earlier in buffers:
            earlier.append(0)
        buffers.append(bytearray(4))
        alive.append(which)
        return buffers[-1]

    buffers: list[bytearray] = []
    segments = [Segment(f"model/{i}", (1,), "F32", 0, 1, lambda i=i: data(i)) for i in range(3)]
    (part,) = plan_parts(segments, 0, 1, 100)
    views = part.pieces()
    next(views)
    assert alive == []
    next(views)
    assert alive == [0]
    # A buffer still looked at could not grow: BufferError.
    list(views)
    assert alive == [0, 1, 2]


def packed(header: object, data: bytes = b"") -> memoryview:
    text = json.dumps(header).encode()
    return memoryview(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("bytes_", "reason"),
    [
        (memoryview(b"1234567"), "shorter than"),
        (memoryview(struct.pack("<Q", 1 << 40) + b"{}"), "longer than the file"),
        (memoryview(struct.pack("<Q", 2) + b"{]"), "not valid JSON"),
        (packed({"a": 1}), "malformed"),
        (packed({"a": {"dtype": "F32"}}), "malformed"),
        (packed({"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "malformed"),
        (packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]}}, b"12345"), "malformed"),
        (packed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"), "malformed"),
        (packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234"), "malformed"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(bytes_: memoryview, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_header(bytes_)


def test_metadata_of_other_writers_is_no_tensor() -> None:
    assert read_header(packed({"__metadata__": {"format": "np"}})) == {}
