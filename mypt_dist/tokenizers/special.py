"""Which control tokens exist, and what are their ids?

The names are the same for every kind of tokenizer; the ids follow its base vocabulary in this order. The map travels
with every dataset and checkpoint, so the order may grow at its end but never change.
"""

from collections.abc import Mapping

from mypt_dist.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document."""
END_OF_TURN = "<|endofturn|>"
"""Stands after every turn of a conversation."""

SECTIONS = ("system", "user", "context", "assistant", "toolcall", "toolresult", "think", "cite")
"""Parts of a conversation; each has an opening and a closing token."""

SPECIAL_NAMES = (
    END_OF_TEXT,
    *(name for section in SECTIONS for name in (f"<|{section}|>", f"<|/{section}|>")),
    END_OF_TURN,
)
"""Every control token, in the order of the ids."""


def special_ids(base_vocab_size: int) -> dict[str, int]:
    """The pinned name -> id map of a tokenizer with ``base_vocab_size`` ordinary tokens."""
    return {name: base_vocab_size + i for i, name in enumerate(SPECIAL_NAMES)}


def check_specials(specials: Mapping[str, int], base_vocab_size: int) -> None:
    """A map that was read must hold the end of text and give consecutive ids after the base vocabulary.

    Raises `ConfigError` naming what is wrong.
    """
    if END_OF_TEXT not in specials:
        raise ConfigError(f"tokenizer state: specials must hold {END_OF_TEXT!r}, got {sorted(specials)}")
    unfit = [name for name in specials if not name or not name.isprintable()]
    if unfit:
        raise ConfigError(f"tokenizer state: the names of specials must be printable text, got {unfit}")
    expected = list(range(base_vocab_size, base_vocab_size + len(specials)))
    if sorted(specials.values()) != expected:
        raise ConfigError(
            f"tokenizer state: the ids of specials must be {expected[0]}..{expected[-1]}, each once, "
            f"got {sorted(specials.values())}"
        )
