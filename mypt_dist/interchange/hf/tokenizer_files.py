"""A tokenizer of ours as the files that transformers and tokenizers read: the same ids for the same text."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from mypt_dist.chat import AnyTemplate
from mypt_dist.interchange.hf.chat import chat_template
from mypt_dist.tokenizers import END_OF_TEXT, Tokenizer
from mypt_dist.tokenizers.bpe import BpeTokenizer
from mypt_dist.tokenizers.byte_level import merges_of, spelled
from mypt_dist.tokenizers.char import UNKNOWN, CharTokenizer
from mypt_dist.tokenizers.gpt2 import merge_ranks
from mypt_dist.tokenizers.hf import HfTokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIALS = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
STATE = "mypt_tokenizer.json"
"""Our own description, of which an import makes the very same tokenizer again."""


def tokenizer_files(tokenizer: Tokenizer, context: int, template: AnyTemplate) -> dict[str, bytes]:
    """Content by file name. Without ``tokenizer.json`` for a kind that it cannot describe.

    ``template``: of the conversations that the model knows.
    """
    names = _their_names(tokenizer)
    end = next(name for name, token in names.items() if token == tokenizer.eot_id)
    roles = {"bos_token": end, "eos_token": end}
    others = [name for name in names if name != end]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "additional_special_tokens": others,
        "added_tokens_decoder": {str(token): _added(name) for name, token in names.items()},
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    files = {STATE: _text(tokenizer.state())}
    if (described := described_tokenizer(tokenizer)) is not None:
        files[TOKENIZER] = _text(described)
        files[TOKENIZER_CONFIG] = _text(config)
        files[SPECIALS] = _text({**roles, "additional_special_tokens": others})
    if (jinja := chat_template(template, names)) is not None and TOKENIZER in files:
        files[CHAT_TEMPLATE] = jinja.encode()
    return files


def described_tokenizer(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The object in ``tokenizer.json``; None for a kind that has no exact equal there."""
    if isinstance(tokenizer, HfTokenizer):
        return _foreign(tokenizer)
    describe = _KINDS.get(tokenizer.kind)
    if describe is None:
        return None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, **_added(name)} for name, token in tokenizer.specials.items()],
        "normalizer": None,
        **describe(tokenizer),
        "post_processor": None,
    }


def _their_names(tokenizer: Tokenizer) -> dict[str, int]:
    """Control tokens by what ``tokenizer.json`` calls them."""
    end = tokenizer.end_of_text if isinstance(tokenizer, HfTokenizer) else END_OF_TEXT
    return {end if name == END_OF_TEXT else name: token for name, token in tokenizer.specials.items()}


def _foreign(tokenizer: HfTokenizer) -> dict[str, Any]:
    """As it came, and the control tokens that were added to it."""
    added = list(tokenizer.description.get("added_tokens") or ())
    known = {token["id"] for token in added}
    added += [{"id": token, **_added(name)} for name, token in tokenizer.specials.items() if token not in known]
    return {**tokenizer.description, "added_tokens": added}


def _gpt2(tokenizer: Tokenizer) -> dict[str, Any]:
    return _ranked(merge_ranks(), _merges_of_gpt2())


@cache
def _merges_of_gpt2() -> list[tuple[bytes, bytes]]:
    return merges_of(merge_ranks())


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    assert isinstance(tokenizer, BpeTokenizer)
    return _ranked(tokenizer.ranks, merges_of(tokenizer.ranks))


def _ranked(ranks: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    vocabulary = {spelled(piece): rank for piece, rank in ranks.items()}
    return _byte_pairs(vocabulary, [[spelled(left), spelled(right)] for left, right in merges], split=True)


def _byte(tokenizer: Tokenizer) -> dict[str, Any]:
    return _byte_pairs({spelled(bytes([value])): value for value in range(256)}, [], split=False)


def _char(tokenizer: Tokenizer) -> dict[str, Any]:
    assert isinstance(tokenizer, CharTokenizer)
    vocabulary = {character: number for number, character in enumerate(tokenizer.characters)}
    return {
        # A dot matches no line end in this dialect.
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False,
        },
        "model": {
            "type": "WordLevel", "vocab": {**vocabulary, UNKNOWN: tokenizer.unknown_id}, "unk_token": UNKNOWN,
        },
        "decoder": {"type": "Fuse"},
    }  # fmt: skip


def _byte_pairs(vocabulary: dict[str, int], merges: list[list[str]], *, split: bool) -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": split}
    return {
        "pre_tokenizer": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
        "decoder": {**level, "use_regex": True},
    }


def _added(name: str) -> dict[str, Any]:
    return {
        "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True,
    }  # fmt: skip


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


_KINDS: dict[str, Callable[[Tokenizer], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "bpe": _bpe,
    "byte": _byte,
    "char": _char,
}
