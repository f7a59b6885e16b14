"""MyPT's masked shards for fine-tuning: ``shard_%05d.bin`` uint16 and ``shard_%05d_mask.bin`` uint8."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mypt_dist.data.companions import SegmentNumbers
from mypt_dist.data.foreign.dataset import Blocks, ForeignDataset, RawFile
from mypt_dist.data.foreign.masks import as_mask
from mypt_dist.data.foreign.mypt_metadata import SPLITS, TAGS_HINT, Metadata, has_shards, mask_of, token_shards
from mypt_dist.data.foreign.tokenizer import MYPT_END
from mypt_dist.data.rewrite.blocks import Block
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import Tokenizer

Pair = tuple[RawFile, RawFile]
"""Tokens, and the mask of each."""


class MyptSft:
    name = "mypt-sft"
    title = "fine-tuning shards of MyPT with loss masks"

    def recognises(self, path: Path) -> bool:
        folders = (path, *(path / split for split in SPLITS))
        return any(has_shards(folder) and mask_of(folder / "shard_00000.bin").is_file() for folder in folders)

    def open(self, path: Path) -> ForeignDataset:
        metadata = Metadata(path)
        folders = {split: path / split for split in SPLITS if has_shards(path / split)} or {"train": path}
        pairs = {split: tuple(_pair(shard) for shard in token_shards(folder)) for split, folder in folders.items()}
        for split in SPLITS:
            found = pairs.get(split, ())
            metadata.expect(len(found), f"{split} shards", f"num_{split}_shards")
            metadata.expect(sum(tokens.count for tokens, _ in found), f"{split} tokens", f"num_{split}_tokens")
        every = [pair for found in pairs.values() for pair in found]
        return ForeignDataset(
            self.name,
            files=(*metadata.files(), *(file.path for pair in every for file in pair)),
            tokens=sum(tokens.count for tokens, _ in every),
            splits={split: _blocks(found, _tags(metadata)) for split, found in pairs.items()},
            companions=("mask", "segments"),
            tokenizer_hint=TAGS_HINT,
            facts=metadata.facts("tokenization", "vocab_size", "val_split"),
            check=_check(metadata),
        )


def _pair(shard: Path) -> Pair:
    tokens, mask = RawFile.rest_of(shard, "<u2"), RawFile.rest_of(mask_of(shard), "u1")
    if tokens.count != mask.count:
        raise DataError(f"{mask.path} has a mask for {mask.count:,} tokens, {shard.name} has {tokens.count:,}")
    return tokens, mask


def _blocks(pairs: tuple[Pair, ...], tags: Callable[[Tokenizer], int]) -> Blocks:
    def blocks(tokenizer: Tokenizer) -> Iterator[Block]:
        end_id, numbers, ended = tags(tokenizer), SegmentNumbers(), False
        for tokens, mask in pairs:
            for ids, learned in zip(tokens.blocks(), mask.blocks(), strict=True):
                ends = ids == end_id
                begins = np.concatenate(([ended], ends[:-1]))
                ended = bool(ends[-1])
                segments = numbers.of(np.ones(len(ids), np.uint8), begins)
                yield Block(ids, {"mask": as_mask(learned, mask.path), "segments": segments})

    return blocks


def _tags(metadata: Metadata) -> Callable[[Tokenizer], int]:
    """The id that ends a conversation, of a tokenizer whose tags are those that the data says it uses."""
    used = metadata.content.get("special_tokens_used", [])

    def end_id(tokenizer: Tokenizer) -> int:
        own = tokenizer.specials
        said = used if isinstance(used, Mapping) else dict.fromkeys(used if isinstance(used, list) else [])
        for name, number in said.items():
            if name not in own or (isinstance(number, int) and own[name] != number):
                raise ConfigError(
                    f"{metadata.path} says that {name} is a tag{'' if number is None else f' with id {number}'}; in "
                    f"the chosen tokenizer it {f'has id {own[name]}' if name in own else 'is none'}: choose another"
                )
        return own.get(MYPT_END, tokenizer.eot_id)

    return end_id


def _check(metadata: Metadata) -> Callable[[int, int], None]:
    def check(_tokens: int, documents: int) -> None:
        metadata.expect(documents, "conversations, by the ends in the chosen tokenizer", "num_conversations")

    return check
