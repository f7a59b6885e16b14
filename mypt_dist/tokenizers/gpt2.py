"""How does GPT-2's byte-pair encoding work without a network? Its merge ranks are shipped, and checked on load."""

import base64
import functools
import gzip
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import tiktoken

from mypt_dist.errors import DataError
from mypt_dist.tokenizers.ranked import RankedTokenizer, encoding_of
from mypt_dist.tokenizers.special import special_ids

BASE_VOCAB_SIZE = 50256
RANKS_FILE = "ranks/gpt2.tiktoken.gz"
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
"""Of the decompressed file; the hash tiktoken itself expects of ``r50k_base``."""


class Gpt2Tokenizer(RankedTokenizer):
    """GPT-2 byte-pair encoding: 50,256 ordinary tokens, ``<|endoftext|>`` = 50256, then the other specials.

    Raises `DataError` where the shipped ranks are not the ones expected.
    """

    kind = "gpt2"

    def __init__(self, specials: Mapping[str, int] | None = None) -> None:
        encoding, pieces = _shipped()
        super().__init__(encoding, pieces, specials if specials is not None else special_ids(BASE_VOCAB_SIZE))

    def _own_state(self) -> dict[str, Any]:
        return {"ranks": RANKS_SHA256}


def merge_ranks() -> dict[bytes, int]:
    """GPT-2's 50,256 tokens and their ids, as shipped. Raises `DataError` where the file is damaged."""
    text = _decompress((files("mypt_dist.tokenizers") / RANKS_FILE).read_bytes())
    pairs = (line.split() for line in text.splitlines())
    return {base64.b64decode(piece): int(rank) for piece, rank in pairs}


@functools.cache
def _shipped() -> tuple[tiktoken.Encoding, list[bytes]]:
    ranks = merge_ranks()
    return encoding_of("gpt2", ranks), sorted(ranks, key=ranks.__getitem__)


def _decompress(packed: bytes) -> bytes:
    try:
        text = gzip.decompress(packed)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"the shipped {RANKS_FILE} is damaged ({error}); install mypt-dist again") from None
    found = hashlib.sha256(text).hexdigest()
    if found != RANKS_SHA256:
        raise DataError(
            f"the shipped {RANKS_FILE} is damaged: its content has sha256 {found}, expected {RANKS_SHA256}; "
            "install mypt-dist again"
        )
    return text
