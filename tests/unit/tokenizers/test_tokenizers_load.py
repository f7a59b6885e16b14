"""A tokenizer's way to JSON and back."""

import json
import subprocess
import sys

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import END_OF_TEXT, KINDS, SPECIAL_NAMES, build_tokenizer, load_tokenizer, read_tokenizer


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return build_tokenizer(request.param, "hello wörld")


def changed(tokenizer, **changes):
    return load_tokenizer({**tokenizer.state(), **changes})


def test_it_comes_back_from_json(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer.state()))
    loaded = read_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("hello").tolist() == tokenizer.encode("hello").tolist()


def test_names_of_special_tokens_are_the_same_everywhere_and_ids_follow_the_base(tokenizer):
    assert tuple(tokenizer.specials) == SPECIAL_NAMES
    base = tokenizer.state()["base_vocab_size"]
    assert list(tokenizer.specials.values()) == list(range(base, tokenizer.vocab_size))
    with pytest.raises(TypeError):
        tokenizer.specials["<|new|>"] = 1


def test_the_pinned_ids_never_change():
    specials = build_tokenizer("gpt2").specials
    assert [specials[name] for name in (END_OF_TEXT, "<|system|>", "<|/cite|>", "<|endofturn|>")] == [
        50256,
        50257,
        50272,
        50273,
    ]
    assert build_tokenizer("gpt2").fingerprint == "8eba727e3c6bfa67c2bd3ba20b60afd3bfff5ba18000eeb141db5cff24c7e0d0"


def test_another_map_of_special_tokens_is_kept_and_changes_the_fingerprint(tokenizer):
    base = tokenizer.state()["base_vocab_size"]
    other = changed(tokenizer, specials={"<myPT_user>": base + 1, END_OF_TEXT: base})
    assert dict(other.specials) == {END_OF_TEXT: base, "<myPT_user>": base + 1}
    assert other.decode([base + 1, base]) == "<myPT_user><|endoftext|>"
    assert other.fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize(
    ("specials", "message"),
    [
        ({"<|user|>": 256}, "must hold '<|endoftext|>'"),
        ({END_OF_TEXT: 255}, r"must be 256\.\.256"),
        ({END_OF_TEXT: 256, "<|user|>": 258}, r"must be 256\.\.257"),
        ({END_OF_TEXT: 256, "<|user|>": 256}, r"must be 256\.\.257"),
        ({END_OF_TEXT: 256, "": 257}, "printable"),
        ({END_OF_TEXT: 256, "\ud800": 257}, "printable"),
        ({END_OF_TEXT: "256"}, "specials"),
    ],
)
def test_a_map_with_gaps_or_odd_names_is_refused(specials, message):
    with pytest.raises(ConfigError, match=message):
        changed(build_tokenizer("byte"), specials=specials)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sentencepiece"}, r"no tokenizer is called 'sentencepiece' \(known: gpt2, byte, char, bpe, hf\)"),
        ({"kind": None}, "no tokenizer is called None"),
        ({"format": 2}, "format"),
        ({"ranks": "0" * 64}, "ranks must be 306cd27f"),
        ({"merges": []}, "merges"),
        ({"base_vocab_size": 10, "specials": {END_OF_TEXT: 10}}, "base_vocab_size is 10, its tokens are 50256"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        changed(build_tokenizer("gpt2"), **changes)


def test_a_file_that_is_not_a_state_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="state of a tokenizer, got list"):
        read_tokenizer(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_tokenizer(tmp_path / "absent.json")


def test_unknown_kinds_cannot_be_built():
    with pytest.raises(ConfigError, match="known: gpt2, byte, char"):
        build_tokenizer("bpe")


def test_importing_tokenizers_and_data_tools_loads_no_torch():
    modules = "mypt_dist.tokenizers, mypt_dist.data.prepare, mypt_dist.data.verify, mypt_dist.data.inspect"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
