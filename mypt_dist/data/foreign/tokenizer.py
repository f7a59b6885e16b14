"""With which tokenizer were these tokens written? Named by the user where the data does not say, and never guessed."""

from collections.abc import Callable
from pathlib import Path

from mypt_dist.config.problems import near_miss
from mypt_dist.data.foreign.dataset import Chosen, ForeignDataset
from mypt_dist.data.manifest import FILE, DatasetManifest
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import END_OF_TEXT, Gpt2Tokenizer, Tokenizer, build_tokenizer, read_tokenizer

GPT2_END = 50256
_PAIRS = {
    "mypt-2025-12": (
        *("system", "user", "user_context", "assistant", "assistant_context", "toolcall", "toolresult"),
        "eot",
    ),
    "mypt-2026-03": (
        *("system", "user", "assistant", "user_context", "assistant_context", "toolcall", "toolresult"),
        *("think", "cite", "eot"),
    ),
}
"""Sections whose opening and closing tags follow GPT-2's 50257 tokens, and the one tag that closes nothing."""
MYPT_END = "<myPT_eot>"
"""What ends a conversation of MyPT."""


def mypt_tokenizer(generation: str) -> Tokenizer:
    """GPT-2 with the tags of MyPT, as one of its generations numbered them."""
    names = [END_OF_TEXT]
    for section in _PAIRS[generation]:
        names += [MYPT_END] if section == "eot" else [f"<myPT_{section}>", f"</myPT_{section}>"]
    return Gpt2Tokenizer({name: GPT2_END + number for number, name in enumerate(names)})


def named_tokenizer(name: str) -> Chosen:
    """The tokenizer that ``--tokenizer`` names.

    ``gpt2``, ``byte``, ``char:FILE`` (the characters of a text), ``mypt-2025-12``, ``mypt-2026-03``, a JSON file with a
    tokenizer's state, or a folder with a dataset of ours. Raises `ConfigError`.
    """
    kind, _, text = name.partition(":")
    if name in _PAIRS:
        tokenizer = mypt_tokenizer(name)
        return Chosen(tokenizer, tokenizer.vocab_size, name)
    if name in _PLAIN:
        return plain(_PLAIN[name](), name)
    if kind == "char" and text:
        return plain(build_tokenizer("char", _characters(Path(text))), name)
    path = Path(name)
    if (path / FILE).is_file():
        tokenizer = DatasetManifest.read(path).load_tokenizer()
    elif path.is_file():
        tokenizer = read_tokenizer(path)
    else:
        known = (*_PLAIN, *_PAIRS)
        raise ConfigError(
            f"--tokenizer {name}: no such tokenizer{near_miss(name, known)} (known: {', '.join(known)}, char:TEXTFILE, "
            "a JSON file with its state, or the folder of a dataset)"
        )
    return Chosen(tokenizer, tokenizer.vocab_size, name)


def plain(tokenizer: Tokenizer, name: str) -> Chosen:
    """A tokenizer of ours for what others wrote: of our control tokens they knew the end of text at most."""
    return Chosen(tokenizer, tokenizer.eot_id + 1, name)


def choose(given: str | None, foreign: ForeignDataset) -> Chosen:
    """What the user named, else what the data names. Raises `ConfigError` where nobody does, or where they disagree."""
    carried = foreign.tokenizer
    if given is None:
        if carried is None:
            raise ConfigError(f"{foreign.format} data does not say with which tokenizer: {foreign.tokenizer_hint}")
        return carried
    chosen = named_tokenizer(given)
    if carried is not None and carried.tokenizer.kind != chosen.tokenizer.kind:
        raise ConfigError(
            f"--tokenizer {given} is a {chosen.tokenizer.kind} tokenizer; the data was written with a "
            f"{carried.tokenizer.kind} tokenizer, says {carried.name}"
        )
    return chosen


def _characters(path: Path) -> set[str]:
    found: set[str] = set()
    try:
        # With line ends as Python reads them, which is how nanoGPT and MyPT counted their characters.
        with path.open(encoding="utf-8") as file:
            while text := file.read(1 << 20):
                found.update(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--tokenizer char:{path}: the text cannot be read: {error}") from None
    return found


_PLAIN: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: build_tokenizer("gpt2"),
    "byte": lambda: build_tokenizer("byte"),
}
