"""What does one pass over a file tell? Its hashes, and of tokens the highest id and the documents."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.blocks import BLOCK_BYTES, BlockChecksums
from mypt_dist.data.companions import DocumentCounter
from mypt_dist.errors import DataError


def sha256_of(path: Path, advance: Callable[[int], None] = lambda _bytes: None) -> str:
    """Of a file. ``advance`` is told of bytes read. Raises `DataError`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                advance(len(block))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


class FileScan:
    """Hashes of a file whose bytes come in pieces."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._blocks = BlockChecksums()
        self.bytes = 0

    def add(self, data: "bytes | memoryview[Any]") -> None:
        """The next bytes."""
        self._hash.update(data)
        self._blocks.update(data)
        self.bytes += memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def crc32(self) -> str:
        return self._blocks.hexdigest()


class TokenScan(FileScan):
    """The same of a file of tokens, and what they are."""

    def __init__(self, dtype: "np.dtype[Any]", eot_id: int) -> None:
        super().__init__()
        self._dtype = dtype
        self._documents = DocumentCounter(eot_id)
        self.highest = 0

    def add_tokens(self, data: bytes) -> NDArray[Any]:
        """The next bytes, which are tokens. Half a token at the end is none."""
        self.add(data)
        tokens = np.frombuffer(data, self._dtype, len(data) // self._dtype.itemsize)
        self.highest = max(self.highest, int(tokens.max(initial=0)))
        self._documents.add(tokens)
        return tokens

    @property
    def documents(self) -> int:
        """Ends of text."""
        return self._documents.documents
