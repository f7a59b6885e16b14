"""How does GPT-2's byte-pair encoding work without a network? Its merge ranks are shipped, and checked on load."""

import base64
import functools
import gzip
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from mypt_dist.errors import DataError
from mypt_dist.tokenizers.base import TableTokenizer, well_formed
from mypt_dist.tokenizers.chunks import CHUNK_CHARACTERS, chunks_of
from mypt_dist.tokenizers.special import END_OF_TEXT, special_ids

BASE_VOCAB_SIZE = 50256
RANKS_FILE = "ranks/gpt2.tiktoken.gz"
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
"""Of the decompressed file; the hash tiktoken itself expects of ``r50k_base``."""

# How text is cut before merging: the same pieces as GPT-2's own pattern,
#   '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# in a form that is 1.7 times as fast. Only one alternative looks ahead. With all others in one group, tiktoken's engine
# hands that group to an automaton instead of backtracking through it. Letters may come before contractions because no
# text can begin with both, and \s+ only ever matched the one character that \s+(?!\S) leaves over.
PATTERN = r"(?: ?(?:\p{L}+|\p{N}+)|'(?:[sdmt]|ll|ve|re)| ?[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s"

# No alternative of PATTERN matches white space after anything but white space, and none looks back. So a match ends
# wherever white space follows another character, and what comes after cannot change what came before. Python counts
# a few control characters as white space that the pattern does not; \S is therefore the careful side.
_BEFORE_SPACE = re.compile(r".*\S(?=[ \t\n\r])", re.DOTALL)

# Likewise a match ends where letters, digits and punctuation change, but for the apostrophe of a contraction. Only
# ASCII: for other characters Python's and the pattern's tables may be of different Unicode versions.
_CLASS_CHANGE = re.compile(
    r".*(?:[A-Za-z](?=[!-@\[-`{-~])|[0-9](?=[!-/:-~])|[!-&(-/:-@\[-`{-~](?=[A-Za-z0-9])|'(?=[0-9]))", re.DOTALL
)


class Gpt2Tokenizer(TableTokenizer):
    """GPT-2 byte-pair encoding: 50,256 ordinary tokens, ``<|endoftext|>`` = 50256, then the other specials.

    Raises `DataError` where the shipped ranks are not the ones expected.
    """

    kind = "gpt2"

    def __init__(self, specials: Mapping[str, int] | None = None) -> None:
        self._encoding, pieces = _shipped()
        super().__init__(pieces, specials if specials is not None else special_ids(BASE_VOCAB_SIZE))

    def encode(self, text: str) -> NDArray[np.uint32]:
        if len(text) <= CHUNK_CHARACTERS:
            return self._encode_chunk(text)
        # In chunks, because the engine gives up on runs of a million spaces and takes long over endless words.
        parts = [self._encode_chunk(chunk) for chunk in chunks_of(text, self.safe_cut)]
        return np.concatenate(parts)

    def safe_cut(self, text: str) -> int:
        found = _BEFORE_SPACE.match(text) or _CLASS_CHANGE.match(text)
        return found.end() if found else 0

    def _encode_chunk(self, text: str) -> NDArray[np.uint32]:
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            return self._encoding.encode_to_numpy(well_formed(text), disallowed_special=())

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
    # Only the one special token tiktoken cannot do without: encoding never allows it, decoding is ours.
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: BASE_VOCAB_SIZE}
    )
    return encoding, sorted(ranks, key=ranks.__getitem__)


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
