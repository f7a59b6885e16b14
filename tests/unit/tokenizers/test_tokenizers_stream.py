"""Text while ids still arrive."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.errors import DataError
from mypt_dist.tokenizers import ByteTokenizer, Gpt2Tokenizer, StreamDecoder


def test_a_character_is_held_back_until_its_last_byte():
    decoder = StreamDecoder(ByteTokenizer())
    assert [decoder.feed([byte]) for byte in "aé😀".encode()] == ["a", "", "é", "", "", "", "😀"]
    assert decoder.finish() == ""


def test_an_unfinished_character_is_shown_at_the_end_and_forgotten():
    decoder = StreamDecoder(ByteTokenizer())
    assert decoder.feed(b"\xe4\xb8") == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.feed(b"a") == "a"


@given(st.lists(st.lists(st.integers(0, 273), max_size=5), max_size=8))
def test_pieces_join_to_what_decode_gives(groups):
    tokenizer = ByteTokenizer()
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(group) for group in groups]
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(token for group in groups for token in group)


@given(st.lists(st.integers(0, 50273), max_size=12))
@settings(deadline=None)
def test_gpt2_pieces_join_to_what_decode_gives(ids):
    tokenizer = Gpt2Tokenizer()
    decoder = StreamDecoder(tokenizer)
    assert "".join(decoder.feed([token]) for token in ids) + decoder.finish() == tokenizer.decode(ids)


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(DataError, match="outside"):
        StreamDecoder(ByteTokenizer()).feed([9999])
