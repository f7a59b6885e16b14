"""Which tokenizer of ours stands in a folder that transformers wrote?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mypt_dist.config import read_json
from mypt_dist.errors import ConfigError
from mypt_dist.interchange.hf.tokenizer_files import STATE, TOKENIZER, TOKENIZER_CONFIG, described_tokenizer
from mypt_dist.tokenizers import END_OF_TEXT, Gpt2Tokenizer, Tokenizer, build_tokenizer, read_tokenizer
from mypt_dist.tokenizers.gpt2 import BASE_VOCAB_SIZE
from mypt_dist.tokenizers.hf import HfTokenizer, added_tokens

TOKENIZER_FILES = (STATE, TOKENIZER, TOKENIZER_CONFIG)
"""What decides it, where it is there."""


def tokenizer_in(folder: Path, entries: Mapping[str, Any]) -> tuple[Tokenizer, tuple[str, ...]]:
    """The tokenizer, and what whoever uses it must know. ``entries``: the content of ``config.json``.

    Raises `ConfigError` where there is none, or none that can be used here.
    """
    if (folder / STATE).is_file():
        return read_tokenizer(folder / STATE), ()
    if not (folder / TOKENIZER).is_file():
        raise ConfigError(
            f"{folder} has no {TOKENIZER}: save the tokenizer there with save_pretrained, or name one with --tokenizer"
        )
    described = read_json(folder / TOKENIZER)
    if not isinstance(described, dict):
        raise ConfigError(f"{folder / TOKENIZER} must hold an object, got {type(described).__name__}")
    try:
        if _is_gpt2(described):
            return Gpt2Tokenizer({END_OF_TEXT: BASE_VOCAB_SIZE}), ("the tokenizer is that of GPT-2",)
        end = _end_of_text(folder, described, entries)
        tokenizer = HfTokenizer(described, end)
    except ConfigError as error:
        raise ConfigError(
            f"{folder / TOKENIZER} cannot be used: {error}; another can be named with --tokenizer"
        ) from None
    notes = [f"{END_OF_TEXT} is what {TOKENIZER} calls {end}"] if end != END_OF_TEXT else []
    if described.get("post_processor") is not None:
        notes.append("tokens that its post_processor adds to a text, such as one for the beginning, are not added here")
    return tokenizer, tuple(notes)


def _is_gpt2(described: Mapping[str, Any]) -> bool:
    """Whether it is GPT-2's own, with nothing added but the end of text."""
    theirs, level = described.get("model"), described.get("pre_tokenizer")
    if not isinstance(theirs, dict) or not isinstance(level, dict) or described.get("normalizer") is not None:
        return False
    cuts = (level.get("type"), level.get("add_prefix_space", True), level.get("use_regex", True))
    added = [(token["content"], token["id"]) for token in added_tokens(described)]
    if cuts != ("ByteLevel", False, True) or added != [(END_OF_TEXT, BASE_VOCAB_SIZE)]:
        return False
    ours = described_tokenizer(build_tokenizer("gpt2"))
    assert ours is not None
    vocabulary = {text: token for text, token in theirs.get("vocab", {}).items() if text != END_OF_TEXT}
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in theirs.get("merges", [])]
    return (vocabulary, merges) == (ours["model"]["vocab"], ours["model"]["merges"])


def _end_of_text(folder: Path, described: Mapping[str, Any], entries: Mapping[str, Any]) -> str:
    """The token that stands after a document: the one of our name, or what the folder calls the end of a sequence."""
    added = {str(token["content"]): int(token["id"]) for token in added_tokens(described) if token.get("special")}
    if END_OF_TEXT in added:
        return END_OF_TEXT
    settings: Any = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    eos: Any = settings.get("eos_token") if isinstance(settings, dict) else ""
    named = eos.get("content") if isinstance(eos, dict) else eos
    if named in added:
        return str(named)
    ids = entries.get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    for name, token in added.items():
        if token == first:
            return name
    raise ConfigError(
        f"none of its special tokens is said to end a text, by eos_token in {TOKENIZER_CONFIG} or eos_token_id in "
        "config.json"
    )
