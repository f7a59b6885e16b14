"""What must every tokenizer be able to do?"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mypt_dist.errors import DataError
from mypt_dist.tokenizers.special import END_OF_TEXT


class Tokenizer(Protocol):
    """Text to ids and back. Immutable, and safe to use from several threads."""

    @property
    def kind(self) -> str:
        """``gpt2``, ``byte``, ``char``, ``bpe`` or ``hf``."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; ids are 0 … vocab_size - 1."""
        ...

    @property
    def specials(self) -> Mapping[str, int]:
        """Name -> id of the control tokens. No text ever encodes to one of these ids."""
        ...

    @property
    def eot_id(self) -> int:
        """Id of ``<|endoftext|>``, which stands after every document."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the canonical JSON of `state`: equal means same ids for same text."""
        ...

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of ``text``, shape (n,). Names of special tokens inside ``text`` are ordinary text."""
        ...

    def safe_cut(self, text: str) -> int:
        """The largest p known to be safe, or 0 if none is.

        Safe means: for whatever ``rest`` follows, ``encode(text + rest)`` is ``encode(text[:p])`` followed by
        ``encode(text[p:] + rest)``.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; special tokens appear as their names, broken UTF-8 as U+FFFD. Raises `DataError`."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """What one token decodes to, in UTF-8. Raises `DataError` for an id outside the vocabulary."""
        ...

    def byte_lengths(self) -> NDArray[np.uint16]:
        """Bytes of UTF-8 text each token stands for, shape (vocab_size,); 0 for special tokens."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to build this tokenizer again, as JSON."""
        ...


class TableTokenizer:
    """The half of a `Tokenizer` that follows from the table of what each ordinary token stands for."""

    kind: str

    def __init__(self, pieces: Sequence[bytes], specials: Mapping[str, int]) -> None:
        """``pieces``: UTF-8 of the ordinary tokens, by id. ``specials``: consecutive ids after them."""
        names = sorted(specials, key=specials.__getitem__)
        assert [specials[name] for name in names] == list(range(len(pieces), len(pieces) + len(names)))
        self._base = len(pieces)
        self._pieces = (*pieces, *(name.encode() for name in names))
        self.specials: Mapping[str, int] = MappingProxyType({name: specials[name] for name in names})
        self.vocab_size = len(self._pieces)
        self.eot_id = specials[END_OF_TEXT]

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.state())

    def state(self) -> dict[str, Any]:
        return {
            "format": 1,
            "kind": self.kind,
            "base_vocab_size": self._base,
            "specials": dict(self.specials),
            **self._own_state(),
        }

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes(int(token)) for token in ids).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise DataError(f"token id {token} is outside the {self.kind} vocabulary of {self.vocab_size:,} tokens")
        return self._pieces[token]

    def byte_lengths(self) -> NDArray[np.uint16]:
        lengths = np.zeros(self.vocab_size, np.uint16)
        lengths[: self._base] = [len(piece) for piece in self._pieces[: self._base]]
        return lengths

    def _own_state(self) -> dict[str, Any]:
        """What the state of this kind holds beyond the common part."""
        return {}


def fingerprint_of(state: Mapping[str, Any]) -> str:
    """sha256 (hex) of a tokenizer state's canonical JSON."""
    canonical = json.dumps(state, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def well_formed(text: str) -> str:
    """``text`` with every lone surrogate, which UTF-8 cannot express, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
