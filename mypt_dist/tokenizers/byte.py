"""How is text written with nothing but its own bytes?"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mypt_dist.tokenizers.base import TableTokenizer, well_formed
from mypt_dist.tokenizers.special import special_ids

BASE_VOCAB_SIZE = 256


class ByteTokenizer(TableTokenizer):
    """Ids 0-255 are the bytes of UTF-8; the special tokens follow."""

    kind = "byte"

    def __init__(self, specials: Mapping[str, int] | None = None) -> None:
        pieces = [bytes([value]) for value in range(BASE_VOCAB_SIZE)]
        super().__init__(pieces, specials if specials is not None else special_ids(BASE_VOCAB_SIZE))

    def encode(self, text: str) -> NDArray[np.uint32]:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            data = well_formed(text).encode()
        return np.frombuffer(data, np.uint8).astype(np.uint32)

    def safe_cut(self, text: str) -> int:
        return len(text)
