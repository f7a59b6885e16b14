"""What is held out where the hash of the documents leaves a split empty, because there are so few of them?"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mypt_dist.data.manifest import SPLITS, SplitEntry, Splits, dtype_for
from mypt_dist.data.prepare.counting import CountingWriter
from mypt_dist.data.prepare.settings import PrepareSettings
from mypt_dist.data.prepare.writer import split_writers, writing
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
        counting = {split: CountingWriter(writer, tokenizer) for split, writer in writers.items()}
        splits = _cut(folder, whole, whole.tokens - held_out, counting, tokenizer)
    with writing(folder):
        for split in SPLITS:
            shutil.rmtree(folder / split)
            (folder / _APART / split).rename(folder / split)
    return splits


def _cut(
    folder: Path, whole: SplitEntry, left: int, writers: Mapping[str, CountingWriter], tokenizer: Tokenizer
) -> Splits:
    """The first ``left`` tokens to ``train``, the others to ``val``."""
    eot_id, dtype = tokenizer.eot_id, dtype_for(tokenizer.vocab_size)
    for tokens in (part for entry in whole.shards for part in read_tokens(folder, entry, dtype)):
        if left:
            writers["train"].append(tokens[:left])
            if left <= len(tokens) and tokens[left - 1] != eot_id:
                writers["train"].append(np.array([eot_id]))
        writers["val"].append(tokens[left:])
        left = max(0, left - len(tokens))
    return Splits(train=writers["train"].close(), val=writers["val"].close())
