"""Tokenizers of bytes and of characters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import SPECIAL_NAMES, ByteTokenizer, CharTokenizer
from mypt_dist.tokenizers.char import UNKNOWN

WELL_FORMED = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@given(WELL_FORMED)
def test_byte_ids_are_the_bytes(text):
    ids = ByteTokenizer().encode(text)
    assert ids.dtype == np.uint32
    assert ids.tolist() == list(text.encode())
    assert ByteTokenizer().decode(ids) == text


@given(WELL_FORMED.filter(bool))
def test_characters_come_back(text):
    tokenizer = CharTokenizer.of(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


@given(WELL_FORMED.filter(bool), st.text(max_size=20))
def test_no_text_encodes_to_a_special_id(corpus, text):
    text += "".join(SPECIAL_NAMES)
    for tokenizer in (CharTokenizer.of(corpus), ByteTokenizer()):
        assert not set(tokenizer.encode(text).tolist()) & set(tokenizer.specials.values())


def test_case_is_kept():
    tokenizer = CharTokenizer.of("aA")
    assert tokenizer.encode("aA").tolist() == [1, 0]


def test_order_and_number_of_the_characters_do_not_matter():
    assert CharTokenizer.of("hello").fingerprint == CharTokenizer.of("olleh" * 3).fingerprint
    assert CharTokenizer.of("hello").fingerprint != CharTokenizer.of("hell").fingerprint


@pytest.mark.parametrize("unseen", ["b", "\0", "😀", "\U0010ffff", "\ud800"])
def test_an_unseen_character_is_unknown(unseen):
    tokenizer = CharTokenizer.of("ac")
    assert tokenizer.encode(f"a{unseen}c").tolist() == [0, tokenizer.unknown_id, 1]
    assert tokenizer.decode([0, tokenizer.unknown_id]) == f"a{UNKNOWN}"
    assert tokenizer.byte_lengths()[tokenizer.unknown_id] == 1


def test_special_ids_follow_the_characters_and_the_unknown_one():
    tokenizer = CharTokenizer.of("abc")
    assert tokenizer.eot_id == 4
    assert tokenizer.vocab_size == 4 + len(SPECIAL_NAMES)


@pytest.mark.parametrize("characters", ["", "ba", "aab", "a\ud800"])
def test_characters_out_of_order_or_twice_are_refused(characters):
    with pytest.raises(ConfigError, match="code point order"):
        CharTokenizer(characters)


def test_half_a_character_becomes_a_replacement_character():
    assert ByteTokenizer().decode(ByteTokenizer().encode("a\udfffb")) == "a\ufffdb"


def test_special_tokens_decode_to_their_names_and_end_an_unfinished_character():
    tokenizer = ByteTokenizer()
    ids = [*b"a\xc3", tokenizer.eot_id, *b"\xa9b"]
    assert tokenizer.decode(ids) == "a\ufffd<|endoftext|>\ufffdb"
    assert tokenizer.byte_lengths().tolist() == [1] * 256 + [0] * len(SPECIAL_NAMES)


@pytest.mark.parametrize("token", [-1, 274, 50303])
def test_an_id_outside_the_vocabulary_is_refused(token):
    with pytest.raises(DataError, match=rf"{token} is outside the byte vocabulary of 274 tokens"):
        ByteTokenizer().decode([65, token])


def test_bytes_and_characters_may_be_cut_anywhere():
    assert ByteTokenizer().safe_cut("abc") == CharTokenizer.of("x").safe_cut("abc") == 3
