"""From a position to batches: whatever the shards, the ranks, the prefetching."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data.batch import IGNORE, Batch
from mypt_dist.data.loader import BatchShape, EvalWindows, Loader, Prefetch, TokenGather, segments_of
from mypt_dist.data.order import GENESIS, Order, SourceShape
from mypt_dist.data.stream import TokenStream, require_window
from mypt_dist.errors import ConfigError, DataError

VOCAB, CONTEXT = 50_000, 7
LENGTHS = np.arange(VOCAB, dtype=np.uint16) % 5
CPU = torch.device("cpu")


def stream(*sizes: int, first: int = 0) -> TokenStream:
    """Shards of the given sizes that together count up from ``first``."""
    numbers = np.arange(first, first + sum(sizes), dtype=np.uint16)
    return TokenStream("counting", np.split(numbers, np.cumsum(sizes)[:-1]))


def loader(
    streams: Sequence[TokenStream], *, rank: int = 0, ranks: int = 1, micro: int = 2, prefetch: int = 0
) -> Loader:
    shapes = [SourceShape(f"s{i}", len(s), weight=i + 1) for i, s in enumerate(streams)]
    order = Order(shapes, context=CONTEXT, seed=3)
    shape = BatchShape(8, micro, CONTEXT, rank, ranks)
    return Loader(order, TokenGather(streams, LENGTHS, VOCAB), shape, device=CPU, ahead=Prefetch(prefetch))


def ids(batches: Sequence[Batch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.input_ids.tolist()]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 12), st.data())
def test_a_stream_reads_the_same_tokens_however_it_is_cut(sizes: list[int], length: int, data: st.DataObject) -> None:
    total = sum(sizes)
    if total < length:
        return
    starts = data.draw(st.lists(st.integers(0, total - length), min_size=1, max_size=5))
    out = np.empty((len(starts), length), dtype=np.int64)
    stream(*sizes).gather(starts, out)
    assert out.tolist() == [list(range(s, s + length)) for s in starts]


def test_labels_are_the_inputs_one_token_later() -> None:
    (batch,) = loader([stream(500)], micro=8).step(0).micro_batches
    assert torch.equal(batch.labels[:, :-1], batch.input_ids[:, 1:])
    assert torch.equal(batch.labels, batch.input_ids + 1)
    assert (batch.input_ids.dtype, batch.num_targets) == (torch.int64, 8 * CONTEXT)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_ranks_and_micro_batches_cut_a_step_without_changing_it(ranks: int, micro: int) -> None:
    sources = [stream(100, 33, 90), stream(150, first=10_000)]
    expected = loader(sources, micro=8).step(24)
    found, hashes = [], set()
    for rank in range(ranks):
        step = loader(sources, rank=rank, ranks=ranks, micro=micro).step(24)
        assert len(step.micro_batches) == 8 // ranks // micro
        found += ids(step.micro_batches)
        hashes.add(step.fold(GENESIS))
    assert found == ids(expected.micro_batches)
    assert hashes == {expected.fold(GENESIS)}


def test_working_ahead_changes_nothing_even_after_a_jump() -> None:
    plain, ahead = loader([stream(900)]), loader([stream(900)], prefetch=3)
    for position in (0, 8, 16, 4000, 4008, 8, 16, 0):
        assert ids(ahead.step(position).micro_batches) == ids(plain.step(position).micro_batches)
    ahead.close()


def test_a_long_walk_equals_many_seeks() -> None:
    walking = loader([stream(30_000)], micro=8)
    for step in range(0, 3000):
        found = walking.step(8 * step).samples
        if step % 517 == 0:
            assert found.start.tolist() == loader([stream(30_000)], micro=8).step(8 * step).samples.start.tolist()


def test_an_impossible_token_is_found_when_it_is_read() -> None:
    bad = TokenStream("bad", [np.full(100, VOCAB, dtype=np.uint16)])
    for prefetch in (0, 2):
        broken = loader([bad], prefetch=prefetch)
        with pytest.raises(DataError, match=r"bad holds token 50000, but the vocabulary ends at 49999"):
            broken.step(0)
        broken.close()


def test_bytes_are_those_of_the_learned_labels() -> None:
    step = loader([stream(500)], micro=4).step(0)
    labels = torch.cat([batch.labels for batch in step.micro_batches]).flatten().numpy()
    assert step.num_bytes() == int(LENGTHS[labels].sum())


def test_tokens_and_epochs_are_told_for_every_source() -> None:
    found = loader([stream(400), stream(400)]).metrics(48 * 3)
    assert {name: found[f"data/epoch/{name}"] for name in ("s0", "s1")} == {"s0": 48 / 49, "s1": 96 / 49}
    assert {name: found[f"data/tokens/{name}"] for name in ("s0", "s1")} == {"s0": 48 * CONTEXT, "s1": 96 * CONTEXT}


def test_a_stream_shorter_than_a_window_is_refused() -> None:
    require_window(stream(8), 7)
    with pytest.raises(ConfigError, match=r"has 7 tokens, one window needs model\.context \+ 1 = 8"):
        require_window(stream(7), 7)


@given(st.lists(st.integers(8, 300), min_size=1, max_size=3), st.integers(1, 40), st.sampled_from([1, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_evaluation_reads_the_same_windows_once_on_any_number_of_ranks(
    sizes: list[int], limit: int, ranks: int
) -> None:
    streams = [stream(size, first=1000 * i) for i, size in enumerate(sizes)]
    gather = TokenGather(streams, LENGTHS, VOCAB)

    def windows(rank: int, of: int) -> EvalWindows:
        return EvalWindows(gather, BatchShape(8, 2, CONTEXT, rank, of), [len(s) for s in streams], limit)

    def learned(batches: list[Batch]) -> list[list[int]]:
        return [row for batch in batches for row in batch.labels.tolist() if row[0] != IGNORE]

    shares = [windows(rank, ranks).batches() for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1, "ranks with collectives in their forward pass stay together"
    found = [row for share in shares for row in learned(share)]
    assert sorted(found) == sorted(learned(windows(0, 1).batches()))
    fitting = sum(size // (CONTEXT + 1) for size in sizes)
    assert len(found) == len({tuple(row) for row in found}) == min(limit, fitting)
    assert sum(batch.num_targets for share in shares for batch in share) == len(found) * CONTEXT
    assert windows(0, 1).num_bytes(shares[0]) == int(LENGTHS[np.array(learned(shares[0]), dtype=np.int64)].sum())


def test_evaluation_windows_are_spread_over_the_whole_split() -> None:
    gather = TokenGather([stream(8000)], LENGTHS, VOCAB)
    batches = EvalWindows(gather, BatchShape(4, 4, CONTEXT), [8000], 4).batches()
    assert [row[0] for row in ids(batches)] == [0, 2000, 4000, 6000]


def test_the_end_of_a_document_belongs_to_it() -> None:
    tokens = torch.tensor([[5, 6, 9, 7, 9, 9, 4], [9, 1, 2, 3, 4, 5, 9]])
    assert segments_of(tokens, 9).tolist() == [[0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


@given(st.lists(st.lists(st.integers(0, 3), min_size=12, max_size=12), min_size=1, max_size=4))
def test_segments_count_the_ends_before_a_token(rows: list[list[int]]) -> None:
    found = segments_of(torch.tensor(rows), 0)
    assert found.dtype == torch.int64
    assert found.tolist() == [[row[:place].count(0) for place in range(12)] for row in rows]


def documents(document_end: int | None) -> TokenGather:
    return TokenGather(
        [TokenStream("text", [np.arange(500, dtype=np.uint16) % 11])], LENGTHS, VOCAB, document_end=document_end
    )


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_step_tells_documents_apart_if_asked_and_learns_the_same_targets(prefetch: int) -> None:
    order, shape = Order([SourceShape("text", 500)], context=CONTEXT, seed=3), BatchShape(8, 4, CONTEXT)
    plain, masked = (
        Loader(order, documents(end), shape, device=CPU, ahead=Prefetch(prefetch)).step(8) for end in (None, 10)
    )
    for without, batch in zip(plain.micro_batches, masked.micro_batches, strict=True):
        assert without.segment_ids is None
        assert batch.segment_ids is not None
        assert torch.equal(batch.segment_ids, segments_of(batch.input_ids, 10))
        assert torch.equal(batch.labels, without.labels), "what follows an end is learned too"
        assert batch.num_targets == without.num_targets
    assert masked.num_bytes() == plain.num_bytes()
    assert any(batch.segment_ids.any() for batch in masked.micro_batches if batch.segment_ids is not None)


def test_evaluation_windows_tell_documents_apart_also_where_there_is_nothing_to_learn() -> None:
    windows = EvalWindows(documents(10), BatchShape(4, 2, CONTEXT, rank=1, ranks=2), [500], 3)
    real, filler = (
        windows.batches()[0],
        EvalWindows(documents(10), BatchShape(4, 1, CONTEXT, 1, 2), [500], 1).batches()[0],
    )
    assert real.num_targets == CONTEXT
    assert filler.num_targets == 0
    assert (filler.labels == IGNORE).all()
    for batch in (real, filler):
        assert batch.segment_ids is not None
        assert torch.equal(batch.segment_ids, segments_of(batch.input_ids, 10))


def test_a_batch_moves_as_a_whole() -> None:
    batch = documents(10).batch(Order([SourceShape("text", 500)], context=CONTEXT, seed=3).samples(0, 2), CONTEXT)
    moved = batch.to(torch.device("meta"))
    assert moved.segment_ids is not None
    assert {moved.input_ids.device.type, moved.labels.device.type, moved.segment_ids.device.type} == {"meta"}
    assert moved.num_targets == batch.num_targets
    plain = documents(None).batch(Order([SourceShape("text", 500)], context=CONTEXT, seed=3).samples(0, 2), CONTEXT)
    assert plain.to(torch.device("meta")).segment_ids is None
