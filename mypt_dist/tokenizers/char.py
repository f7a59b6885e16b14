"""How is text written with the characters of its own corpus?"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers.base import TableTokenizer, well_formed
from mypt_dist.tokenizers.special import special_ids

UNKNOWN = "<|unk|>"
"""What an unseen character decodes to. An ordinary token, because text may encode to it."""


class CharTokenizer(TableTokenizer):
    """One id for each character of a corpus in code point order, one for all others, then the special tokens."""

    kind = "char"

    def __init__(self, characters: str, specials: Mapping[str, int] | None = None) -> None:
        """``characters``: each once, in code point order. Raises `ConfigError` otherwise."""
        codes = np.array([ord(character) for character in characters], np.int64)
        if not codes.size or (np.diff(codes) <= 0).any() or ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
            raise ConfigError(
                "the characters of a char tokenizer must be at least one, in code point order, each once, "
                "and none of them a surrogate"
            )
        self.characters = characters
        self.unknown_id = len(characters)
        # One slot more than the last character, for everything beyond it.
        self._table = np.full(int(codes[-1]) + 2, self.unknown_id, np.uint32)
        self._table[codes] = np.arange(len(codes), dtype=np.uint32)
        base = self.unknown_id + 1
        pieces = [*(character.encode() for character in characters), UNKNOWN.encode()]
        super().__init__(pieces, specials if specials is not None else special_ids(base))

    @classmethod
    def of(cls, characters: Iterable[str]) -> "CharTokenizer":
        """The tokenizer of a corpus that holds these characters, in any order and number."""
        return cls("".join(sorted(set(characters))))

    def encode(self, text: str) -> NDArray[np.uint32]:
        try:
            data = text.encode("utf-32-le")
        except UnicodeEncodeError:
            data = well_formed(text).encode("utf-32-le")
        codes = np.frombuffer(data, "<u4")
        ids: NDArray[np.uint32] = self._table[np.minimum(codes, len(self._table) - 1)]
        return ids

    def safe_cut(self, text: str) -> int:
        return len(text)

    def byte_lengths(self) -> NDArray[np.uint16]:
        lengths = super().byte_lengths()
        # The least an unseen character can stand for, so that bits per byte are never understated.
        lengths[self.unknown_id] = 1
        return lengths

    def _own_state(self) -> dict[str, Any]:
        return {"characters": self.characters}
