"""Flat pieces of tensors: ranges, names, and whether they make whole tensors."""

import numpy as np
import pytest
from checkpoint_doubles import piece
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.checkpoint import ITEM_BYTES, Segment
from mypt_dist.checkpoint.segments import tiling_problem


def nothing() -> bytes:
    return b""


@pytest.mark.parametrize(
    ("start", "length", "shape"),
    [(0, 7, (2, 3)), (6, 1, (2, 3)), (-1, 2, (6,)), (0, -1, (6,)), (0, 1, (0, 3)), (0, 0, (-1,)), (0, 2, ())],
)
def test_a_range_outside_the_tensor_is_refused(start: int, length: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not inside a tensor of"):
        Segment("model/a", shape, "F32", start, length, nothing)


@pytest.mark.parametrize("name", ["a", "weights/a", "model/", "model", "/model/a"])
def test_a_name_must_say_whether_it_is_of_the_model_or_the_optimizer(name: str) -> None:
    with pytest.raises(ValueError, match="must begin with model/ or optimizer/"):
        Segment(name, (1,), "F32", 0, 1, nothing)


def test_an_unknown_element_type_is_refused() -> None:
    with pytest.raises(ValueError, match="no element type is called 'F8'"):
        Segment("model/a", (1,), "F8", 0, 1, nothing)  # type: ignore[arg-type]


def test_a_scalar_has_one_element_and_an_empty_tensor_none() -> None:
    assert Segment("optimizer/step", (), "I64", 0, 1, nothing).bytes == 8
    assert Segment("model/none", (0, 4), "F32", 0, 0, nothing).bytes == 0


def test_pieces_of_one_tensor_have_different_keys_and_know_their_folder() -> None:
    array = np.zeros((2, 3), dtype=np.float32)
    first, second = piece("model/a", array, 0, 2), piece("model/a", array, 2, 4)
    assert (first.key, second.key) == ("model/a", "model/a@2")
    assert (first.folder, piece("optimizer/a", array, 0, 1).folder) == ("weights", "optimizer")


@given(st.lists(st.integers(1, 5), max_size=8), st.randoms(use_true_random=False))
def test_pieces_that_follow_each_other_make_a_whole_in_any_order(lengths: list[int], random: object) -> None:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    pieces = list(zip(starts, lengths, strict=True))
    random.shuffle(pieces)  # type: ignore[attr-defined]
    assert tiling_problem(pieces, sum(lengths)) is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_a_missing_a_doubled_or_a_moved_piece_is_a_problem(lengths: list[int], data: st.DataObject) -> None:
    pieces = [(sum(lengths[:i]), length) for i, length in enumerate(lengths)]
    which = data.draw(st.integers(0, len(pieces) - 1))
    start, length = pieces[which]
    others = pieces[:which] + pieces[which + 1 :]
    elements = sum(lengths)
    assert tiling_problem(others, elements)
    assert tiling_problem([*pieces, pieces[which]], elements)
    assert tiling_problem([*others, (start + 1, length)], elements)
    assert tiling_problem([*others, (start, length + 1)], elements)
    assert tiling_problem(pieces, elements + 1)


def test_the_problem_says_which_elements() -> None:
    assert tiling_problem([(0, 2), (4, 2)], 6) == "elements 2 to 4 are missing"
    assert tiling_problem([(0, 4), (2, 4)], 6) == "elements 2 to 4 are held twice"
    assert tiling_problem([(0, 4)], 6) == "4 elements are held, the shape has 6"


def test_every_element_type_has_a_size() -> None:
    assert ITEM_BYTES["BF16"] == 2
    assert set(ITEM_BYTES) == {"F64", "I64", "F32", "I32", "BF16", "F16", "U8", "BOOL"}
