"""Megatron's index, over random datasets: documents come out whole, in order, each with one end of text."""

import tempfile
from pathlib import Path

import numpy as np
from foreign_files import GPT2_END, megatron
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from mypt_dist.data.foreign import megatron as reader
from mypt_dist.errors import MyptError
from mypt_dist.tokenizers import Gpt2Tokenizer

TOKENIZER = Gpt2Tokenizer()
IDS = st.integers(0, 120) | st.just(GPT2_END)


@composite
def documents(draw: DrawFn):
    """Documents made of sequences, which may be empty."""
    return draw(st.lists(st.lists(st.lists(IDS, max_size=6), max_size=4), max_size=8))


def tokens_of(prefix):
    dataset = reader.Megatron().open(prefix.with_suffix(".idx"))
    blocks = [block.tokens for blocks in dataset.splits.values() for block in blocks(TOKENIZER)]
    return np.concatenate(blocks).tolist() if blocks else []


@settings(max_examples=60, deadline=None)
@given(documents(), st.sampled_from(["u2", "i4", "i8"]), st.booleans(), st.integers(1, 9), st.integers(1, 4))
def test_every_document_comes_out_whole(found, dtype, modes, block, index_block):
    sequences = [np.array(row) for document in found for row in document]
    borders = np.cumsum([0, *(len(document) for document in found)])
    expected = []
    for document in found:
        tokens = [token for row in document for token in row]
        expected += tokens + ([] if not tokens or tokens[-1] == GPT2_END else [GPT2_END])
    before = reader.BLOCK_TOKENS, reader.INDEX_BLOCK
    reader.BLOCK_TOKENS, reader.INDEX_BLOCK = block, index_block
    try:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            assert tokens_of(megatron(Path(folder) / "x", sequences, borders, dtype, modes=modes)) == expected
    finally:
        reader.BLOCK_TOKENS, reader.INDEX_BLOCK = before


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_bytes_an_index_has_it_is_read_or_refused(data):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        prefix = megatron(Path(folder) / "x", [[1, 2], [3], [4, 5, 6]], [0, 2, 3])
        content = bytearray(prefix.with_suffix(".idx").read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        prefix.with_suffix(".idx").write_bytes(content[: data.draw(st.integers(0, len(content)))] or content)
        try:
            tokens = tokens_of(prefix)
        except MyptError:
            return
        # Whatever it says now, what comes out is in the file.
        assert set(tokens) <= {1, 2, 3, 4, 5, 6, 256, 512, 768, 1024, 1280, 1536, GPT2_END}


def test_sequences_may_lie_in_any_order(tmp_path):
    rows = [[1, 2], [3, 4, 5], [6]]
    prefix = megatron(tmp_path / "x", rows, [0, 1, 3], pointers=[4, 6, 0])
    stored = [1, 2, 3, 4, 5, 6]
    assert tokens_of(prefix) == [*stored[2:4], GPT2_END, *stored[3:6], stored[0], GPT2_END]
