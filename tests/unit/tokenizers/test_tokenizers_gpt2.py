"""GPT-2's encoding, against tiktoken with GPT-2's own pattern."""

import functools
import gzip

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from mypt_dist.errors import DataError
from mypt_dist.tokenizers import SPECIAL_NAMES, Gpt2Tokenizer
from mypt_dist.tokenizers import gpt2 as module
from mypt_dist.tokenizers.chunks import CHUNK_CHARACTERS, Chunker

# Everything the pattern treats differently: contractions, all kinds of spaces, controls that only Python calls space.
TRICKY = "'s'll 've\n\t \r\x0b\x1c\x85\xa0\u2028\u3000aZ é中٣²½😀0 9!?_-<|endoftext|>\u0301\ufeff"
TEXT = st.one_of(st.text(alphabet=TRICKY, max_size=60), st.text(max_size=60))
PARTS = st.lists(st.sampled_from(["  ", " ", "\n", "don't", "x", "42", "...", "'", "é", "\u3000", "\x1c"]), max_size=40)


@functools.cache
def reference():
    ranks = module.merge_ranks()
    return tiktoken.Encoding("r", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})


@functools.cache
def gpt2():
    return Gpt2Tokenizer()


def plain(text):
    """One call for any length, as `Gpt2Tokenizer` makes it for short texts."""
    return gpt2()._encode_chunk(text).tolist()


def test_known_ids_are_those_of_gpt2():
    assert gpt2().encode("Hello world,").tolist() == [15496, 995, 11]
    assert gpt2().eot_id == gpt2().specials["<|endoftext|>"] == 50256


def test_ids_are_uint32_and_the_vocabulary_fits_the_padded_one():
    assert gpt2().encode("a").dtype == np.uint32
    assert gpt2().encode("").shape == (0,)
    assert 50257 < gpt2().vocab_size <= 50304


@given(st.one_of(TEXT, PARTS.map("".join)))
@settings(max_examples=500, deadline=None)
def test_the_faster_pattern_gives_what_gpt2s_own_gives(text):
    assert gpt2().encode(text).tolist() == reference().encode_ordinary(text)


@given(TEXT)
@settings(deadline=None)
def test_text_comes_back(text):
    assert gpt2().decode(gpt2().encode(text)) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.one_of(TEXT, PARTS.map("".join)), TEXT)
@settings(max_examples=500, deadline=None)
def test_a_safe_cut_changes_no_token_whatever_follows(text, rest):
    cut = gpt2().safe_cut(text)
    assert 0 <= cut <= len(text)
    assert plain(text + rest) == plain(text[:cut]) + plain(text[cut:] + rest)


@given(st.text(alphabet="ab'19!? _s", max_size=12), st.text(alphabet="ab'19!? _s", max_size=6))
@settings(max_examples=500, deadline=None)
def test_a_safe_cut_inside_words_changes_no_token(text, rest):
    text = text.replace(" ", "")
    cut = gpt2().safe_cut(text)
    assert plain(text + rest) == plain(text[:cut]) + plain(text[cut:] + rest)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("one two three", 7),
        ("one\ntwo", 3),
        ("abc", 0),
        ("   ", 0),
        ("abc123", 3),
        ("x'll", 1),
        ("a  b", 1),
        ("..'1", 3),
    ],
)
def test_safe_cuts_stand_before_white_space_or_between_kinds_of_characters(text, cut):
    assert gpt2().safe_cut(text) == cut


@given(PARTS, st.integers(4, 30), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_chunks_encode_to_the_tokens_of_the_whole(parts, size, step):
    text = "".join(parts)
    cut = gpt2().safe_cut
    # Without a safe place the cut is forced; here only what needs none is compared.
    forced = []
    chunker = Chunker(lambda window: cut(window) or forced.append(window) or 0, size)
    chunks = [chunk for i in range(0, len(text), step) for chunk in chunker.feed(text[i : i + step])]
    chunks.append(chunker.rest())
    assert "".join(chunks) == text
    assert all(len(chunk) <= size for chunk in chunks)
    if not forced:
        assert [token for chunk in chunks for token in plain(chunk)] == plain(text)


def test_a_long_text_is_encoded_as_a_whole():
    text = "".join(f"def f{i}(self):\n    return 'it''s' + {i**3}  # naïve\n\n\n" for i in range(8000))
    assert len(text) > 3 * CHUNK_CHARACTERS
    assert gpt2().encode(text).tolist() == reference().encode_ordinary(text)


def test_endless_runs_are_encoded_where_the_engine_alone_gives_up():
    text = " " * 1_500_000 + "x"
    with pytest.raises(ValueError, match="stack"):
        reference().encode_to_numpy(text)
    assert gpt2().decode(gpt2().encode(text)) == text


def test_half_a_character_becomes_a_replacement_character():
    assert gpt2().decode(gpt2().encode("a\ud800b")) == "a\ufffdb"


@given(st.lists(st.one_of(st.sampled_from(SPECIAL_NAMES), st.text(max_size=5)), max_size=8).map("".join))
@settings(deadline=None)
def test_no_text_encodes_to_a_special_id(text):
    ids = gpt2().encode(text)
    assert ids.max(initial=0) < 50256


def test_bytes_of_tokens_add_up_to_the_bytes_of_the_text():
    text = "Grüße, 世界! 😀 don't"
    lengths = gpt2().byte_lengths()
    assert lengths.shape == (gpt2().vocab_size,)
    assert lengths[gpt2().encode(text)].sum() == len(text.encode())
    assert not lengths[list(gpt2().specials.values())].any()
    assert lengths[:50256].all()


def test_shipped_ranks_are_the_ones_tiktoken_expects():
    ranks = module.merge_ranks()
    assert len(ranks) == 50256
    assert ranks[b"!"] == 0
    assert sorted(ranks.values()) == list(range(50256))


def test_changed_ranks_are_refused():
    with pytest.raises(DataError, match=f"{module.RANKS_SHA256}"):
        module._decompress(gzip.compress(b"IQ== 0\n"))


def test_damaged_ranks_are_refused():
    with pytest.raises(DataError, match="install mypt-dist again"):
        module._decompress(gzip.compress(b"IQ== 0\n")[:-3])
