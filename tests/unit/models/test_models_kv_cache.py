"""The bookkeeping of keys and values, row by row."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mypt_dist.models.layers.kv_cache import CacheShape, KVCache

SHAPE = CacheShape(n_layer=2, n_kv_head=2, capacity=10, head_dim=4)


def _cache(rows: int) -> KVCache:
    return KVCache(SHAPE, rows, device=torch.device("cpu"), dtype=torch.float32)


def _put(cache: KVCache, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    extension = cache.extension(k.size(2))
    mixed = [extension.attend(layer, q + layer, k + layer, v + layer) for layer in range(2)]
    cache.advance(k.size(2))
    return torch.stack(mixed)


def _alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain attention of the last queries of one row: (H, t, D) on (K, T, D)."""
    k, v = (part.repeat_interleave(q.size(0) // k.size(0), dim=0) for part in (k, v))
    hidden = torch.ones(q.size(1), k.size(1)).triu(k.size(1) - q.size(1) + 1).bool()
    return (q @ k.transpose(1, 2) / math.sqrt(q.size(2))).masked_fill(hidden, -math.inf).softmax(-1) @ v


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_whatever_the_rows_hold_each_query_sees_its_own_row_up_to_itself(data: st.DataObject) -> None:
    torch.manual_seed(0)
    rows = data.draw(st.integers(1, 3))
    texts = [[torch.randn(heads, 10, 4) for heads in (4, 2, 2)] for _ in range(rows)]
    cache = _cache(rows)
    for count in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)):
        if max(cache.lengths) + count > 10 or data.draw(st.booleans()):
            cache.rewind([data.draw(st.integers(0, length)) for length in cache.lengths])
        starts = cache.lengths
        if max(starts) + count > 10:
            continue
        q, k, v = (
            torch.stack([text[part][:, at : at + count] for text, at in zip(texts, starts, strict=True)])
            for part in range(3)
        )
        mixed = _put(cache, k, v, q)
        for row, (text, at) in enumerate(zip(texts, starts, strict=True)):
            q_row, k_row, v_row = text[0][:, at : at + count], text[1][:, : at + count], text[2][:, : at + count]
            for layer in range(2):
                expected = _alone(q_row + layer, k_row + layer, v_row + layer)
                torch.testing.assert_close(mixed[layer, row], expected, atol=1e-5, rtol=1e-5)


def _filled(rows: int) -> KVCache:
    cache = _cache(rows)
    content = torch.arange(rows, dtype=torch.float32)[:, None, None, None].expand(rows, 2, 3, 4)
    _put(cache, content, content + 100, torch.zeros(rows, 4, 3, 4))
    return cache


def test_positions_follow_each_rows_length() -> None:
    cache = _filled(2)
    assert cache.extension(2).positions.tolist() == [3, 4]
    cache.rewind([3, 1])
    assert cache.extension(2).positions.tolist() == [[3, 4], [1, 2]]


def test_rows_can_be_dropped_and_reordered() -> None:
    cache = _filled(3)
    cache.rewind([3, 2, 1])
    cache.keep_rows([2, 0])
    assert cache.lengths == [1, 3]
    assert cache.keys[0, :, 0, 0, 0].tolist() == [2, 0]
    assert cache.values[0, :, 0, 0, 0].tolist() == [102, 100]


def test_rows_can_be_replaced_by_those_of_a_smaller_cache() -> None:
    cache = _filled(3)
    smaller = KVCache(CacheShape(2, 2, 4, 4), 1, device=torch.device("cpu"), dtype=torch.float32)
    new = torch.full((1, 2, 2, 4), 7.0)
    _put(smaller, new, new, torch.zeros(1, 4, 2, 4))
    cache.replace_rows([1], smaller)
    assert cache.lengths == [3, 2, 3]
    assert cache.keys[0, :, 0, 1, 0].tolist() == [0, 7, 2]
    assert cache.values[1, :, 0, 1, 0].tolist() == [101, 8, 103]


def test_more_than_fits_is_refused() -> None:
    cache = _filled(2)
    cache.rewind([3, 0])
    cache.extension(7)
    with pytest.raises(ValueError, match="8 more tokens do not fit: 3 of 10"):
        cache.extension(8)


@pytest.mark.parametrize("lengths", [[4, 0], [1], [1, 1, 1]])
def test_only_what_is_there_can_be_kept(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot rewind"):
        _filled(2).rewind(lengths)


def test_leftovers_of_a_row_are_never_seen_and_fresh_room_holds_no_nan() -> None:
    cache = _filled(2)
    cache.rewind([1, 2])
    q, k = torch.randn(2, 4, 1, 4), torch.randn(2, 2, 1, 4)
    expected = _put(cache, k, k, q)
    other = _filled(2)
    other.keys[:, 0, :, 1:], other.values[:, 0, :, 1:] = 1e4, 1e4
    other.rewind([1, 2])
    torch.testing.assert_close(_put(other, k, k, q), expected)
    assert not KVCache(SHAPE, 1, device=torch.device("cpu"), dtype=torch.float32).keys.any()


def test_a_prompt_needs_no_mask() -> None:
    q, k = torch.randn(1, 4, 5, 4), torch.randn(1, 2, 5, 4)
    expected = F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(_put(_cache(1), k, k, q)[0], expected)
