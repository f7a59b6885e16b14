"""How does a tokenizer come back from its JSON state?"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, JsonValue, StrictInt, StrictStr

from mypt_dist.config import Config, read_json, validate
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import byte, gpt2
from mypt_dist.tokenizers.base import Tokenizer
from mypt_dist.tokenizers.bpe import BpeTokenizer, unpacked
from mypt_dist.tokenizers.byte import ByteTokenizer
from mypt_dist.tokenizers.char import CharTokenizer
from mypt_dist.tokenizers.gpt2 import RANKS_SHA256, Gpt2Tokenizer
from mypt_dist.tokenizers.hf import HfTokenizer
from mypt_dist.tokenizers.special import END_OF_TEXT, check_specials

KINDS = ("gpt2", "byte", "char")
"""Every kind that needs no file, as a user names it."""


class _State(Config):
    format: Literal[1]
    kind: StrictStr
    base_vocab_size: StrictInt = Field(gt=0)
    specials: dict[StrictStr, StrictInt]


class _Gpt2State(_State):
    ranks: StrictStr


class _CharState(_State):
    characters: StrictStr


class _BpeState(_State):
    pattern: Literal["gpt2"]
    ranks: StrictStr


class _HfState(_State):
    description: dict[str, JsonValue]
    end_of_text: StrictStr


S = TypeVar("S", bound=_State)


def build_tokenizer(kind: str, characters: Iterable[str] = ()) -> Tokenizer:
    """A new tokenizer with the pinned special tokens. ``characters``: those of the corpus, for ``char`` alone.

    Raises `ConfigError`: unknown kind, or a ``char`` tokenizer of no characters.
    """
    if kind == "char":
        return CharTokenizer.of(characters)
    simple: dict[str, Callable[[], Tokenizer]] = {"gpt2": Gpt2Tokenizer, "byte": ByteTokenizer}
    return simple[_known(kind, KINDS)]()


def load_tokenizer(state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `Tokenizer.state` this is.

    Raises `ConfigError`: unknown kind or key, ids that leave gaps, other merge ranks than the shipped ones.
    """
    return _LOADERS[_known(state.get("kind"), tuple(_LOADERS))](state)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer whose state stands in the JSON file ``path``. Raises `ConfigError`."""
    state = read_json(path)
    if not isinstance(state, dict):
        raise ConfigError(f"{path} must hold the state of a tokenizer, got {type(state).__name__}")
    return load_tokenizer(state)


def with_specials(tokenizer: Tokenizer, names: Iterable[str]) -> Tokenizer:
    """The same tokenizer with more control tokens behind those it has; ids that there were stay as they are.

    Raises `ConfigError` for a name that is taken, or that cannot be one.
    """
    state = tokenizer.state()
    specials = dict(state["specials"])
    for name in names:
        if name in specials:
            raise ConfigError(f"the {tokenizer.kind} tokenizer has a control token {name!r} already")
        specials[name] = tokenizer.vocab_size + len(specials) - len(tokenizer.specials)
    return load_tokenizer({**state, "specials": specials})


def _load_gpt2(state: Mapping[str, Any]) -> Tokenizer:
    parsed = _parse(_Gpt2State, state)
    if parsed.ranks != RANKS_SHA256:
        raise ConfigError(f"tokenizer state: ranks must be {RANKS_SHA256}, the ones shipped; got {parsed.ranks}")
    return Gpt2Tokenizer(_specials(parsed, gpt2.BASE_VOCAB_SIZE))


def _load_byte(state: Mapping[str, Any]) -> Tokenizer:
    return ByteTokenizer(_specials(_parse(_State, state), byte.BASE_VOCAB_SIZE))


def _load_char(state: Mapping[str, Any]) -> Tokenizer:
    parsed = _parse(_CharState, state)
    return CharTokenizer(parsed.characters, _specials(parsed, len(parsed.characters) + 1))


def _load_bpe(state: Mapping[str, Any]) -> Tokenizer:
    parsed = _parse(_BpeState, state)
    pieces = unpacked(parsed.ranks)
    return BpeTokenizer(pieces, _specials(parsed, len(pieces)))


def _load_hf(state: Mapping[str, Any]) -> Tokenizer:
    parsed = _parse(_HfState, state)
    tokenizer = HfTokenizer(parsed.description, parsed.end_of_text)
    added = {name: token for name, token in parsed.specials.items() if name not in tokenizer.specials}
    if added:
        check_specials({END_OF_TEXT: tokenizer.vocab_size - 1, **added}, tokenizer.vocab_size - 1)
        tokenizer = HfTokenizer(parsed.description, parsed.end_of_text, added)
    if (dict(tokenizer.specials), tokenizer.base_vocab_size) != (parsed.specials, parsed.base_vocab_size):
        raise ConfigError("tokenizer state: specials and base_vocab_size are not those of its description")
    return tokenizer


_LOADERS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "gpt2": _load_gpt2,
    "byte": _load_byte,
    "char": _load_char,
    "bpe": _load_bpe,
    "hf": _load_hf,
}


def _parse(schema: type[S], state: Mapping[str, Any]) -> S:
    return validate(schema, state, f"the state of the {state['kind']} tokenizer")


def _specials(state: _State, base_vocab_size: int) -> dict[str, int]:
    if state.base_vocab_size != base_vocab_size:
        raise ConfigError(
            f"tokenizer state: base_vocab_size is {state.base_vocab_size}, its tokens are {base_vocab_size}"
        )
    check_specials(state.specials, base_vocab_size)
    return state.specials


def _known(kind: object, kinds: tuple[str, ...]) -> str:
    if kind not in kinds:
        raise ConfigError(f"no tokenizer is called {kind!r} (known: {', '.join(kinds)})")
    return str(kind)
