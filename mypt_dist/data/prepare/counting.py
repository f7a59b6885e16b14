"""How are documents and text counted where only their tokens are known?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.companions import Companion, DocumentCounter
from mypt_dist.data.manifest import SplitEntry
from mypt_dist.data.prepare.writer import SplitWriter
from mypt_dist.tokenizers import Tokenizer


class CountingWriter:
    """Appends tokens whose documents and bytes are told from the tokens and their segments."""

    def __init__(self, writer: SplitWriter, tokenizer: Tokenizer) -> None:
        self._writer, self._lengths = writer, tokenizer.byte_lengths()
        self._counter = DocumentCounter(tokenizer.eot_id)

    def append(self, tokens: NDArray[Any], companions: Mapping[Companion, NDArray[Any]] | None = None) -> None:
        """(n,) ids, all of the vocabulary. Raises `DataError` where the disk refuses."""
        before, segments = self._counter.documents, (companions or {}).get("segments")
        if segments is None:
            self._counter.add(tokens)
        else:
            self._counter.add_segments(segments)
        text = tokens if segments is None else tokens[segments != 0]
        self._writer.write(
            tokens.astype(np.uint32, copy=False),
            text_bytes=int(self._lengths[text].sum(dtype=np.int64)),
            documents=self._counter.documents - before,
            companions=companions,
        )

    def close(self) -> SplitEntry:
        """See `SplitWriter.close`."""
        return self._writer.close()
