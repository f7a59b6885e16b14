"""What is held out where the hash of the documents leaves a split empty, because there are so few of them?"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.manifest import SPLITS, SplitEntry, Splits, dtype_for
from mypt_dist.data.prepare.settings import PrepareSettings
from mypt_dist.data.prepare.writer import SplitWriter, split_writers, writing
from mypt_dist.data.shards import read_tokens
from mypt_dist.tokenizers import Tokenizer

_APART = "apart"


def hold_out_tail(folder: Path, whole: SplitEntry, tokenizer: Tokenizer, settings: PrepareSettings) -> Splits:
    """Split the one stream of tokens ``whole`` in ``folder`` again: its end becomes ``val``, the rest ``train``.

    ``val`` gets the share ``settings.val_fraction`` of the tokens, at least one and never all. A document that is
    cut counts in both, and its first part ends with an end of text of its own. Raises `DataError`.
    """
    held_out = min(max(round(whole.tokens * settings.val_fraction), 1), whole.tokens - 1)
    with writing(folder):
        (folder / _APART).mkdir()
    with split_writers(folder / _APART, tokenizer, settings.shard_tokens) as writers:
        splits = _cut(folder, whole, whole.tokens - held_out, _Counting(writers, tokenizer))
    with writing(folder):
        for split in SPLITS:
            shutil.rmtree(folder / split)
            (folder / _APART / split).rename(folder / split)
    return splits


class _Counting:
    """Appends tokens whose documents and bytes are told from the tokens themselves."""

    def __init__(self, writers: Mapping[str, SplitWriter], tokenizer: Tokenizer) -> None:
        self._writers, self.tokenizer = writers, tokenizer
        self._lengths = tokenizer.byte_lengths()

    def append(self, split: str, tokens: NDArray[Any]) -> None:
        documents = int((tokens == self.tokenizer.eot_id).sum())
        text_bytes = int(self._lengths[tokens].sum(dtype=np.int64))
        self._writers[split].write(tokens.astype(np.uint32), text_bytes=text_bytes, documents=documents)

    def close(self) -> Splits:
        return Splits(train=self._writers["train"].close(), val=self._writers["val"].close())


def _cut(folder: Path, whole: SplitEntry, left: int, writers: _Counting) -> Splits:
    """The first ``left`` tokens to ``train``, the others to ``val``."""
    eot_id, dtype = writers.tokenizer.eot_id, dtype_for(writers.tokenizer.vocab_size)
    for tokens in (part for entry in whole.shards for part in read_tokens(folder, entry, dtype)):
        if left:
            writers.append("train", tokens[:left])
            if left <= len(tokens) and tokens[left - 1] != eot_id:
                writers.append("train", np.array([eot_id]))
        writers.append("val", tokens[left:])
        left = max(0, left - len(tokens))
    return writers.close()
