"""How is text written with byte pairs that were learned from it? GPT-2's encoding with ranks of one's own."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers.ranked import RankedTokenizer, encoding_of
from mypt_dist.tokenizers.special import special_ids

MAX_PIECE = 1 << 16
"""Bytes of a token: fewer than that, for lengths are kept in 16 bits."""


class BpeTokenizer(RankedTokenizer):
    """Byte pairs learned by `mypt_dist.tokenizers.learn.learn_bpe`: 256 bytes, what they were merged to, specials."""

    kind = "bpe"

    def __init__(self, pieces: Sequence[bytes], specials: Mapping[str, int] | None = None) -> None:
        """``pieces``: what each id stands for, every single byte among them; a lower id is merged first.

        Raises `ConfigError` for pieces that are no such list.
        """
        ranks = {piece: rank for rank, piece in enumerate(pieces)}
        if len(ranks) < len(pieces) or not all(0 < len(piece) < MAX_PIECE for piece in ranks):
            raise ConfigError("the ranks of a bpe tokenizer must be byte strings, none of them empty, each once")
        if lacking := [value for value in range(256) if bytes([value]) not in ranks]:
            raise ConfigError(f"the ranks of a bpe tokenizer must hold every single byte; {lacking[0]:#04x} is missing")
        self.ranks: Mapping[bytes, int] = MappingProxyType(ranks)
        super().__init__(
            encoding_of("bpe", ranks), pieces, specials if specials is not None else special_ids(len(pieces))
        )

    def tiktoken_file(self) -> bytes:
        """The ranks as files of tiktoken hold them: a line ``base64 rank`` for each."""
        return b"".join(base64.b64encode(piece) + b" %d\n" % rank for piece, rank in self.ranks.items())

    def _own_state(self) -> dict[str, Any]:
        return {"pattern": "gpt2", "ranks": packed(tuple(self.ranks))}


def packed(pieces: Sequence[bytes]) -> str:
    """Byte strings as one line of text: each in base64, in the order of their ranks."""
    return " ".join(base64.b64encode(piece).decode() for piece in pieces)


def unpacked(ranks: str) -> list[bytes]:
    """The byte strings of `packed`. Raises `ConfigError`."""
    try:
        return [base64.b64decode(piece, validate=True) for piece in ranks.split(" ")]
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"tokenizer state: ranks must be base64 with single spaces between ({error})") from None
