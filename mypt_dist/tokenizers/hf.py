"""How is text written with a byte-level ``tokenizer.json`` of other people? By their library, as they wrote it.

What byte-level means: every ordinary token stands for some bytes, and a text is the bytes of its tokens, joined. So
are the tokenizers of GPT-2, SmolLM, Llama 3 and Qwen. Those that put spaces before words or drop them, as
SentencePiece does, are refused: a text cut in two would not have the tokens of its parts.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers.base import TableTokenizer, fingerprint_of, well_formed
from mypt_dist.tokenizers.byte_level import alphabet, unspelled
from mypt_dist.tokenizers.special import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Engine

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN_PATTERNS = (_WORDS, _WORDS.replace("{1,3}", ""))
"""How Llama 3 and Qwen cut text into words. As in GPT-2's way, no word goes on from a letter into a space."""
MAX_IDS = 1 << 22
"""Many times the largest vocabulary there is: a wrong id must not fill the memory."""
_BEFORE_SPACE = re.compile(r".*[A-Za-z](?= )", re.DOTALL)


class HfTokenizer(TableTokenizer):
    """A ``tokenizer.json``: ids are those of the file, special ones wherever they are; ids of no token are unused."""

    kind = "hf"

    def __init__(
        self, description: Mapping[str, Any], end_of_text: str, added: Mapping[str, int] | None = None
    ) -> None:
        """``end_of_text``: the special token that is called `END_OF_TEXT` here. ``added``: control tokens of ours.

        Raises `ConfigError` for what is not byte-level, and where the library is not installed.
        """
        _require_byte_level(description)
        self._description, self._end_of_text = dict(description), end_of_text
        theirs = {
            str(token["content"]): int(token["id"]) for token in added_tokens(description) if token.get("special")
        }
        self._engine = _engine(description)
        if end_of_text not in theirs:
            raise ConfigError(f"it has no special token {end_of_text!r} to end a text with")
        named = {END_OF_TEXT if name == end_of_text else name: token for name, token in theirs.items()}
        specials = {**named, **(added or {})}
        self.specials = MappingProxyType(dict(sorted(specials.items(), key=lambda item: item[1])))
        self.eot_id = self.specials[END_OF_TEXT]
        self._pieces = _pieces(self._engine, self.specials)
        self.vocab_size = len(self._pieces)
        self._base = self.vocab_size - len(self.specials)
        self._may_cut = _ends_words_before_spaces(description)
        for name in {*theirs, *self.specials}:
            if set(self.encode(name).tolist()) & set(self.specials.values()):
                raise ConfigError(f"the text {name!r} would become a special token")

    @cached_property
    def fingerprint(self) -> str:
        # Once: the state has megabytes.
        return fingerprint_of(self.state())

    @property
    def end_of_text(self) -> str:
        """What the file calls the token that is `END_OF_TEXT` here."""
        return self._end_of_text

    @property
    def description(self) -> dict[str, Any]:
        """The content of ``tokenizer.json``."""
        return self._description

    @property
    def base_vocab_size(self) -> int:
        """Ids that are not special, unused ones included. They need not stand together."""
        return self._base

    def encode(self, text: str) -> NDArray[np.uint32]:
        try:
            text.encode()
        except UnicodeEncodeError:
            text = well_formed(text)
        return np.array(self._engine.encode(text, add_special_tokens=False).ids, np.uint32)

    def safe_cut(self, text: str) -> int:
        found = _BEFORE_SPACE.match(text) if self._may_cut else None
        return found.end() if found else 0

    def byte_lengths(self) -> NDArray[np.uint16]:
        lengths = np.array([len(piece) for piece in self._pieces], np.uint16)
        lengths[list(self.specials.values())] = 0
        return lengths

    def _own_state(self) -> dict[str, Any]:
        return {"description": self._description, "end_of_text": self._end_of_text}


def _engine(description: Mapping[str, Any]) -> "Engine":
    from tokenizers import Tokenizer as Engine  # noqa: PLC0415 - the other kinds need tiktoken alone

    try:
        engine: Engine = Engine.from_str(json.dumps(description))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more special
        raise ConfigError(f"the library does not take it: {error}") from None
    engine.no_truncation()
    engine.no_padding()
    # Names of special tokens in a text are text.
    engine.encode_special_tokens = True
    return engine


def _pieces(engine: "Engine", specials: Mapping[str, int]) -> tuple[bytes, ...]:
    """What each id stands for, in UTF-8; nothing for ids of no token. Raises `ConfigError`."""
    added = engine.get_added_tokens_decoder()
    vocabulary = engine.get_vocab(with_added_tokens=True)
    size = 1 + max([*vocabulary.values(), *specials.values()])
    if size > MAX_IDS:
        raise ConfigError(f"it has an id of {size - 1:,}; {MAX_IDS:,} are the most that can be")
    pieces = [b""] * size
    for text, token in vocabulary.items():
        piece = added[token].content.encode() if token in added else unspelled(text)
        if piece is None:
            raise ConfigError(f"its token {text!r} stands for no bytes: it is not byte-level")
        pieces[token] = piece
    missing = [character for character in alphabet() if character not in vocabulary]
    if missing:
        raise ConfigError(f"{len(missing)} of the 256 bytes have no token: some texts could not be written")
    for name, token in specials.items():
        pieces[token] = name.encode()
    return tuple(pieces)


def _require_byte_level(description: Mapping[str, Any]) -> None:
    """Raise `ConfigError` naming the part that is not, or that changes a text in a way that depends on its place."""
    model = description.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else model
        raise ConfigError(f"model {kind!r}: only byte-pair encoding (BPE) is byte-level")
    for key in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ConfigError(f"model.{key} is {model[key]!r}: it is not byte-level")
    _require_allowed_parts(description)


def _require_allowed_parts(description: Mapping[str, Any]) -> None:
    for section, allowed in _ALLOWED.items():
        for part in _parts(description.get(section)):
            if part.get("type") not in allowed:
                raise ConfigError(f"{section} {part.get('type')!r}: only {', '.join(allowed)} can be used here")
            if section == "pre_tokenizer" and part["type"] == "ByteLevel" and part.get("add_prefix_space", True):
                raise ConfigError("pre_tokenizer.add_prefix_space is true: it puts a space before every text")
    if not any(part["type"] == "ByteLevel" for part in _parts(description.get("decoder"))):
        raise ConfigError("it has no ByteLevel decoder: it is not byte-level")


_ALLOWED = {
    "normalizer": ("NFC",),
    "pre_tokenizer": ("ByteLevel", "Split", "Digits"),
    "decoder": ("ByteLevel",),
}
_INNER = ("normalizers", "pretokenizers", "decoders")


def _parts(section: Any) -> Iterator[dict[str, Any]]:
    """The parts of a section, those of sequences one by one."""
    if not isinstance(section, dict):
        return
    if section.get("type") == "Sequence":
        for key in _INNER:
            for part in section.get(key) or ():
                yield from _parts(part)
    else:
        yield section


def added_tokens(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its ``added_tokens``, each with ``content`` and ``id``. Raises `ConfigError` where they are malformed."""
    added = description.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int
        for token in added
    ):
        raise ConfigError("its added_tokens are malformed")
    return added


def _ends_words_before_spaces(description: Mapping[str, Any]) -> bool:
    """Whether a token ends wherever a letter stands before a space, whatever stands around them."""
    for token in added_tokens(description):
        if " " in token["content"] or token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            return False
    cuts = False
    for part in _parts(description.get("pre_tokenizer")):
        if part["type"] == "Split":
            pattern = part.get("pattern")
            known = isinstance(pattern, dict) and pattern.get("Regex") in KNOWN_PATTERNS
            if not known or part.get("behavior") != "Isolated" or part.get("invert"):
                return False
            cuts = True
        cuts |= part["type"] == "ByteLevel" and bool(part.get("use_regex", True))
    return cuts
