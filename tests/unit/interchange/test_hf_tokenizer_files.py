"""The tokenizers that are written give the ids of ours, and the chat template the layout of our conversations."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mypt_dist.chat import MYPT
from mypt_dist.errors import MyptError
from mypt_dist.interchange.hf.tokenizer_files import described_tokenizer, tokenizer_files
from mypt_dist.tokenizers import Tokenizer, build_tokenizer
from mypt_dist.tokenizers.byte_level import alphabet, merges_of, spelled, unspelled
from mypt_dist.tokenizers.char import UNKNOWN
from mypt_dist.tokenizers.learn import learn_bpe

OURS: dict[str, Tokenizer] = {
    "gpt2": build_tokenizer("gpt2"),
    "bpe": learn_bpe(["the cat sat on the other mat that the rat had eaten", "def f(x):\n    return x\n"] * 5, 330),
    "byte": build_tokenizer("byte"),
    "char": build_tokenizer("char", "etaoin shrdlu\n\r\t.,'\u00e9\u0301\U0001f600"),
}
TEXTS = (
    "",
    "Hello world, it's 12:30 o'clock; I'LL be there.",
    "  two  spaces,\n\n\ttabs \r\n and the end  ",
    "Äpfel, e\u0301, 日本語, \U0001f468\u200d\U0001f469\u200d\U0001f467, \u00a0\u2028\ufeff\x00\x1c\x85",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 000000000000 !!!!!!!!!!",
    "def f(x):\n    return {**x, 'a': [1, 2]}  # done",
    UNKNOWN,
)
# Words of the vocabulary among characters of all kinds: both long merges and unusual ones.
PIECES = st.one_of(
    st.text(max_size=8),
    st.text(alphabet="aehinorst '.\n", max_size=12),
    st.integers(0, 50_255).map(lambda token: OURS["gpt2"].decode([token])),
)


@pytest.mark.parametrize("kind", OURS)
@settings(deadline=None, max_examples=60)
@given(pieces=st.lists(PIECES, max_size=12))
def test_any_text_gets_the_same_ids_and_comes_back(kind: str, pieces: list[str]) -> None:
    assert_same(kind, "".join(pieces))


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_of_many_kinds_gets_the_same_ids(kind: str, text: str) -> None:
    assert_same(kind, text)


def assert_same(kind: str, text: str) -> None:
    ids = OURS[kind].encode(text).tolist()
    assert written(kind).encode(text).ids == ids
    assert written(kind).decode(ids, skip_special_tokens=False) == OURS[kind].decode(ids)


@cache
def written(kind: str) -> tokenizers.Tokenizer:
    """As the library makes it of the file."""
    return tokenizers.Tokenizer.from_str(json.dumps(described_tokenizer(OURS[kind])))


def test_merges_of_gpt2_are_in_the_order_of_its_tokens_and_make_all_of_them() -> None:
    from mypt_dist.tokenizers.gpt2 import merge_ranks

    ranks = merge_ranks()
    merges = merges_of(ranks)
    assert [left + right for left, right in merges] == sorted(ranks, key=ranks.__getitem__)[256:]
    # The first lines of GPT-2's own merges.txt.
    assert [(spelled(left), spelled(right)) for left, right in merges[:4]] == [
        ("Ġ", "t"), ("Ġ", "a"), ("h", "e"), ("i", "n"),
    ]  # fmt: skip


def test_a_token_that_can_be_split_in_two_ways_has_the_merge_that_comes_first() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5}
    assert merges_of(ranks) == [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]
    with pytest.raises(ValueError, match="not made of two"):
        merges_of({b"a": 0, b"b": 1, b"abb": 2})


def test_every_byte_has_a_character_of_its_own() -> None:
    everything = bytes(range(256))
    assert len(set(alphabet())) == 256
    assert unspelled(spelled(everything)) == everything
    assert unspelled("a b") is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    for kind, tokenizer in OURS.items():
        (root / kind).mkdir()
        for name, content in tokenizer_files(tokenizer, 64, MYPT).items():
            (root / kind / name).write_bytes(content)
    return {kind: root / kind for kind in OURS}


@pytest.mark.parametrize("kind", OURS)
def test_transformers_knows_the_control_tokens(kind: str, folders: dict[str, Path]) -> None:
    ours, theirs = OURS[kind], AutoTokenizer.from_pretrained(folders[kind])
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.model_max_length) == (ours.eot_id, ours.eot_id, 64)
    assert len(theirs) == ours.vocab_size
    assert {name: theirs.convert_tokens_to_ids(name) for name in ours.specials} == dict(ours.specials)
    assert set(theirs.all_special_tokens) == set(ours.specials)
    text = "eat rat , oats\n"
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    # What the card warns of, and the way out that it names.
    name = "<|user|>"
    assert theirs(name)["input_ids"] == [ours.specials[name]]
    assert theirs(name, split_special_tokens=True)["input_ids"] == ours.encode(name).tolist()
    assert theirs.decode([ours.eot_id, *ours.encode("a")], skip_special_tokens=True) == "a"


def test_the_chat_template_lays_conversations_out(folders: dict[str, Path]) -> None:
    ours, theirs = OURS["gpt2"], AutoTokenizer.from_pretrained(folders["gpt2"])
    turns = [("system", "Be brief."), ("user", "Hi\n"), ("assistant", "Hello"), ("tool", "42"), ("user", "And?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    laid_out: Any = theirs.apply_chat_template(messages, tokenize=False)
    assert laid_out == (
        "<|system|>Be brief.<|/system|><|user|>Hi\n<|/user|><|endofturn|><|assistant|>Hello<|/assistant|><|endofturn|>"
        "<|toolresult|>42<|/toolresult|><|endofturn|><|user|>And?<|/user|><|endofturn|>"
    )
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    control = ours.specials
    assert ids[-1] == control["<|assistant|>"]
    assert ids[:2] == [control["<|system|>"], *ours.encode("Be")]
    with pytest.raises(Exception, match="no place for this role"):
        theirs.apply_chat_template([{"role": "poet", "content": "x"}], tokenize=False)


def test_a_tokenizer_without_sections_has_no_chat_template() -> None:
    from mypt_dist.tokenizers import load_tokenizer

    plain = load_tokenizer({**OURS["byte"].state(), "specials": {"<|endoftext|>": 256}})
    assert "chat_template.jinja" not in tokenizer_files(plain, 64, MYPT)
    with pytest.raises(MyptError):
        load_tokenizer({**OURS["byte"].state(), "specials": {}})
