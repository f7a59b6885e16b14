"""Byte pairs that are learned: the library that learns them, tiktoken, and our protocol agree."""

import base64
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import (
    END_OF_TEXT,
    SPECIAL_NAMES,
    BpeTokenizer,
    StreamDecoder,
    load_tokenizer,
    read_tokenizer,
)
from mypt_dist.tokenizers.base import TableTokenizer
from mypt_dist.tokenizers.bpe import packed, unpacked
from mypt_dist.tokenizers.learn import LEAST, learn_bpe, library_bpe
from mypt_dist.tokenizers.ranked import PATTERN

TRICKY = "'s'll 've\n\t \r\x0b\x1c\x85\xa0\u2028\u3000aZ é中٣²½😀0 9!?_-<|endoftext|>\u0301\ufeff"
WORDS = st.lists(
    st.sampled_from(["def", " self", "return ", "self.", "the", " Tokenizer", "\n    ", "'ll", "naïve", "世界", "  "]),
    max_size=30,
).map("".join)
TEXT = st.one_of(WORDS, st.text(alphabet=TRICKY, max_size=60), st.text(max_size=40))


@functools.cache
def corpus() -> tuple[str, ...]:
    own = [Path(tiktoken.__file__), Path(json.__file__), Path(TableTokenizer.__init__.__code__.co_filename)]
    return (*(path.read_text() for path in own), "naïve café, 世界 世界, Grüße Grüße 😀😀 " * 3)


@functools.cache
def learned() -> BpeTokenizer:
    return learn_bpe(corpus(), 700)


@functools.cache
def library() -> tokenizers.Tokenizer:
    """With merges of its own."""
    return library_bpe(corpus(), 700 - len(SPECIAL_NAMES))


def plain(text: str) -> list[int]:
    return learned()._encode_chunk(text).tolist()


def test_it_needs_fewer_tokens_than_bytes_and_comes_back() -> None:
    text = "".join(corpus())
    ids = learned().encode(text)
    assert ids.dtype == np.uint32
    assert len(ids) < len(text.encode()) / 2
    assert learned().decode(ids) == text
    assert learned().byte_lengths()[ids].sum() == len(text.encode())


@given(st.one_of(WORDS, st.text(alphabet="aZé 09.'s\n", max_size=40)))
@settings(max_examples=100, deadline=None)
def test_ids_are_those_of_the_library_that_learned_them(text: str) -> None:
    assert learned().encode(text).tolist() == library().encode(text, add_special_tokens=False).ids


def test_ids_of_whole_files_are_those_of_the_library_that_learned_them() -> None:
    for text in (*corpus(), Path(subprocess.__file__).read_text()):
        assert learned().encode(text).tolist() == library().encode(text, add_special_tokens=False).ids


@given(TEXT)
@settings(max_examples=100, deadline=None)
def test_text_comes_back_and_never_becomes_a_special_token(text: str) -> None:
    ids = learned().encode(text)
    assert learned().decode(ids) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert ids.max(initial=0) < learned().specials[END_OF_TEXT]
    decoder = StreamDecoder(learned())
    assert "".join(decoder.feed([token]) for token in ids) + decoder.finish() == learned().decode(ids)


@given(TEXT, TEXT)
@settings(max_examples=100, deadline=None)
def test_a_safe_cut_changes_no_token_whatever_follows(text: str, rest: str) -> None:
    cut = learned().safe_cut(text)
    assert 0 <= cut <= len(text)
    assert plain(text + rest) == plain(text[:cut]) + plain(text[cut:] + rest)


def test_special_tokens_follow_what_was_learned() -> None:
    specials = learned().specials
    assert tuple(specials) == SPECIAL_NAMES
    assert list(specials.values()) == list(range(700 - len(SPECIAL_NAMES), 700))
    assert learned().vocab_size == 700
    assert not learned().byte_lengths()[list(specials.values())].any()


def test_it_comes_back_from_json_and_another_map_changes_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "bpe.json"
    path.write_text(json.dumps(learned().state()))
    again = read_tokenizer(path)
    assert again.fingerprint == learned().fingerprint
    assert again.encode(corpus()[0]).tolist() == learned().encode(corpus()[0]).tolist()
    base = learned().state()["base_vocab_size"]
    other = load_tokenizer({**learned().state(), "specials": {END_OF_TEXT: base}})
    assert (other.vocab_size, other.fingerprint != again.fingerprint) == (base + 1, True)


def test_the_ranks_are_a_file_of_tiktoken(tmp_path: Path) -> None:
    path = tmp_path / "bpe.tiktoken"
    path.write_bytes(learned().tiktoken_file())
    ranks = load_tiktoken_bpe(str(path))
    theirs = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert theirs.encode_ordinary(corpus()[0]) == learned().encode(corpus()[0]).tolist()


def test_neither_threads_nor_pieces_of_the_text_in_another_process_change_what_is_learned() -> None:
    code = (
        "import json, sys; from mypt_dist.tokenizers.learn import learn_bpe;"
        "print(learn_bpe(json.load(sys.stdin), 700).fingerprint)"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(corpus()),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert found.stdout.strip() == learned().fingerprint


def test_a_text_with_few_pairs_gives_fewer_ids_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    small = learn_bpe(["abab abab"], 1000)
    assert LEAST < small.vocab_size < 300
    assert small.decode(small.encode("abab ü")) == "abab ü"
    assert f"no more than {small.vocab_size} ids" in caplog.text


@pytest.mark.parametrize("size", [LEAST - 1, (1 << 20) + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="cannot be learned: between 274"):
        learn_bpe(["text"], size)


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="no text to learn from"):
        learn_bpe(texts, 300)


def test_what_goes_wrong_while_reading_is_told() -> None:
    def broken() -> object:
        yield "text"
        raise ConfigError("no such file")

    with pytest.raises(ConfigError, match="no such file"):
        learn_bpe(broken(), 300)  # type: ignore[arg-type]


def test_half_a_character_is_learned_as_a_replacement_character() -> None:
    assert learn_bpe(["a\ud800b " * 3], 300).decode(learn_bpe(["ab " * 3], 300).encode("a\ud800b")) == "a\ufffdb"


BYTES = [bytes([value]) for value in range(256)]


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (packed([*BYTES[1:], b"ab"]), "every single byte; 0x00 is missing"),
        (packed([*BYTES, b"a"]), "each once"),
        (packed(BYTES) + " ", "none of them empty"),
        (packed(BYTES) + " !!", "base64"),
        (packed(BYTES) + " " + base64.b64encode(b"ab").decode()[:-1], "base64"),
    ],
)
def test_ranks_that_are_none_are_refused(ranks: str, said: str) -> None:
    base = ranks.count(" ") + 1
    state = {**BpeTokenizer(BYTES).state(), "ranks": ranks, "base_vocab_size": base, "specials": {END_OF_TEXT: base}}
    with pytest.raises(ConfigError, match=said):
        load_tokenizer(state)


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=20))
def test_ranks_come_back_from_their_text(pieces: list[bytes]) -> None:
    assert unpacked(packed(pieces)) == pieces or not pieces


def test_a_state_with_another_number_of_ids_is_refused() -> None:
    with pytest.raises(ConfigError, match="base_vocab_size is 10, its tokens are 682"):
        load_tokenizer({**learned().state(), "base_vocab_size": 10, "specials": {END_OF_TEXT: 10}})


@given(st.lists(st.binary(min_size=2, max_size=6), unique=True, max_size=30), st.randoms(), TEXT)
@settings(max_examples=60, deadline=None)
def test_any_ranks_encode_any_text_and_give_it_back(pieces: list[bytes], random: Random, text: str) -> None:
    """Of a stranger's file, too, in whatever order it names them."""
    ranks = [*BYTES, *pieces]
    random.shuffle(ranks)
    strange = BpeTokenizer(ranks)
    ids = strange.encode(text)
    assert strange.decode(ids) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
