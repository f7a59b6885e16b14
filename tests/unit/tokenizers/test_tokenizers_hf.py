"""A foreign byte-level tokenizer gives the ids that its own library gives, and keeps what all of ours promise."""

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from foreign_tokenizers import SENTENCES, description, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import StreamDecoder, load_tokenizer
from mypt_dist.tokenizers.hf import HfTokenizer

WAYS = {"smollm": "<|endoftext|>", "llama3": "<|end_of_text|>", "qwen": "<|endoftext|>"}


@cache
def ours(way: str) -> HfTokenizer:
    return HfTokenizer(description(way), WAYS[way])


TEXT = st.lists(
    st.one_of(
        st.text(max_size=10),
        st.sampled_from(
            ["the", " dog", "'s", " 12", "\n ", "  ", "<|endoftext|>", "<|eot_id|>", "<tool_call>", "e\u0301"]
        ),
        st.text(alphabet="abe ,.1\n'", max_size=12),
    ),
    max_size=10,
).map("".join)


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_ids_are_those_of_the_library_and_never_special(way: str, text: str) -> None:
    reference, mine = trained_once(way), ours(way)
    ids = mine.encode(text)
    assert not set(ids.tolist()) & set(mine.specials.values())
    names = [name for name in (*mine.specials, WAYS[way]) if name in text]
    if not names:
        assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids
    assert mine.decode(ids) == reference.decode(ids.tolist(), skip_special_tokens=False)
    assert mine.byte_lengths()[ids].sum() == len(mine.decode(ids).encode())
    if way != "qwen":  # it composes characters first
        assert mine.decode(ids) == text
    stream = StreamDecoder(mine)
    assert "".join(stream.feed([token]) for token in ids) + stream.finish() == mine.decode(ids)


@cache
def trained_once(way: str) -> Any:
    return trained(way)


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=60)
@given(text=TEXT, rest=TEXT)
def test_a_text_may_be_cut_where_it_says(way: str, text: str, rest: str) -> None:
    mine = ours(way)
    cut = mine.safe_cut(text)
    whole = mine.encode(text + rest)
    assert np.array_equal(whole, np.concatenate([mine.encode(text[:cut]), mine.encode(text[cut:] + rest)]))


def test_there_is_a_cut_before_a_space_unless_words_may_hold_spaces() -> None:
    assert [ours(way).safe_cut("the dog sleeps") for way in WAYS] == [7, 7, 7]
    content = description("llama3")
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"[^\n]+|\n"
    assert HfTokenizer(content, WAYS["llama3"]).safe_cut("the dog sleeps") == 0


def test_the_end_of_a_text_is_found_under_our_name() -> None:
    mine, theirs = ours("llama3"), trained_once("llama3")
    assert mine.eot_id == theirs.token_to_id("<|end_of_text|>") == mine.specials["<|endoftext|>"]
    assert "<|end_of_text|>" not in mine.specials
    assert mine.decode([mine.eot_id]) == "<|endoftext|>"
    # Where it is the first id, ordinary ones follow.
    assert ours("smollm").eot_id == 0
    assert ours("smollm").byte_lengths()[:3].tolist() == [0, 0, 1]


def test_a_token_that_is_not_special_is_found_in_a_text() -> None:
    mine = ours("qwen")
    ids = mine.encode("a<tool_call>b").tolist()
    assert trained_once("qwen").token_to_id("<tool_call>") in ids
    assert "<tool_call>" not in mine.specials


@pytest.mark.parametrize("way", WAYS)
def test_it_comes_back_from_its_state(way: str) -> None:
    mine = ours(way)
    again = load_tokenizer(json.loads(json.dumps(mine.state())))
    assert again.fingerprint == mine.fingerprint
    assert (again.vocab_size, dict(again.specials)) == (mine.vocab_size, dict(mine.specials))
    assert [again.encode(text).tolist() for text in SENTENCES] == [mine.encode(text).tolist() for text in SENTENCES]


def test_control_tokens_can_stand_behind_it() -> None:
    mine = ours("smollm")
    state = mine.state()
    specials = {**state["specials"], "<|user|>": mine.vocab_size, "<|/user|>": mine.vocab_size + 1}
    more = load_tokenizer({**state, "specials": specials})
    assert more.vocab_size == mine.vocab_size + 2
    assert more.encode("<|user|>").tolist() == mine.encode("<|user|>").tolist()
    assert more.decode([mine.vocab_size]) == "<|user|>"
    with pytest.raises(ConfigError, match="must be"):
        load_tokenizer({**state, "specials": {**specials, "<|/user|>": mine.vocab_size + 5}})
    with pytest.raises(ConfigError, match="not those of its description"):
        load_tokenizer({**state, "base_vocab_size": 7})


@pytest.mark.parametrize(
    ("way", "path", "value", "problem"),
    [
        ("qwen", ["normalizer"], {"type": "Lowercase"}, "normalizer 'Lowercase'"),
        ("qwen", ["normalizer"], {"type": "Prepend", "prepend": "▁"}, "normalizer 'Prepend'"),
        ("qwen", ["pre_tokenizer"], {"type": "Metaspace"}, "pre_tokenizer 'Metaspace'"),
        ("qwen", ["decoder"], None, "no ByteLevel decoder"),
        ("qwen", ["model"], {"type": "Unigram", "vocab": []}, "model 'Unigram'"),
        ("qwen", ["model", "byte_fallback"], True, "model.byte_fallback"),
        ("smollm", ["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True, "add_prefix_space"),
        ("smollm", ["model", "vocab", "!"], (1 << 22) + 1, "are the most"),
        ("smollm", ["added_tokens"], [{"content": 3}], "malformed"),
        ("smollm", ["added_tokens"], [], "no special token"),
        ("smollm", ["version"], "9", "the library does not take it"),
    ],
)
def test_what_is_not_byte_level_is_refused_by_name(way: str, path: list[Any], value: Any, problem: str) -> None:
    content = inner = description(way)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ConfigError, match=re.escape(problem)):
        HfTokenizer(content, "<|endoftext|>")


def test_a_vocabulary_without_some_byte_is_refused() -> None:
    content = description("smollm")
    del content["model"]["vocab"]["Ā"]
    with pytest.raises(ConfigError, match="1 of the 256 bytes"):
        HfTokenizer(content, "<|endoftext|>")
