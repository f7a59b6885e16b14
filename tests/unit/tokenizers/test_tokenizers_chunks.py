"""Cutting long texts."""

from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.tokenizers.chunks import CHUNK_CHARACTERS, Chunker, chunks_of


def before_space(window):
    return max(window.rfind(" "), 0)


def feed_all(pieces, size):
    chunker = Chunker(before_space, size)
    return [chunk for piece in pieces for chunk in chunker.feed(piece)] + [chunker.rest()]


@given(st.lists(st.text(alphabet="ab ", max_size=12), max_size=12), st.integers(1, 9))
def test_chunks_depend_on_the_text_and_not_on_its_pieces(pieces, size):
    text = "".join(pieces)
    chunks = feed_all(pieces, size)
    assert chunks == feed_all([text], size) == feed_all(list(text), size)
    assert "".join(chunks) == text
    assert all(1 <= len(chunk) <= size for chunk in chunks[:-1])


def test_a_cut_is_forced_where_no_place_is_safe():
    assert feed_all(["aaaaaaaa b"], 3) == ["aaa", "aaa", "aa", " b"]


def test_the_last_chunk_is_empty_only_for_an_empty_text():
    assert feed_all([], 4) == feed_all([""], 4) == [""]
    assert feed_all(["aaaa"], 4) == ["aaaa"]


def test_a_text_of_one_chunk_stays_whole():
    text = "ab " * (CHUNK_CHARACTERS // 3)
    assert list(chunks_of(text, before_space)) == [text]
    assert list(chunks_of("", before_space)) == [""]


def test_a_longer_text_is_cut_at_the_last_safe_place():
    text = "x" * (CHUNK_CHARACTERS - 5) + " " + "y" * 10
    assert [len(chunk) for chunk in chunks_of(text, before_space)] == [CHUNK_CHARACTERS - 5, 11]
