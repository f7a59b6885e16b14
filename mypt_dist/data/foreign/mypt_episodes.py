"""MyPT's episodes: ``{train,val}/tokens.bin`` uint32 with masks and segments beside, cut by ``episodes.idx``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.companions import Companion, SegmentNumbers
from mypt_dist.data.files import PatientFiles
from mypt_dist.data.foreign.dataset import Blocks, ForeignDataset, RawFile, as_ids
from mypt_dist.data.foreign.masks import as_mask, as_weights
from mypt_dist.data.foreign.mypt_metadata import SPLITS, TAGS_HINT, Metadata
from mypt_dist.data.rewrite.blocks import BLOCK_TOKENS, Block
from mypt_dist.errors import DataError
from mypt_dist.tokenizers import Tokenizer

INDEX = "episodes.idx"
TOKENS = "tokens.bin"


class MyptEpisodes:
    name = "mypt-episodes"
    title = "episodes of MyPT with masks, weights and segments"

    def recognises(self, path: Path) -> bool:
        return any((path / split / TOKENS).is_file() and (path / split / INDEX).is_file() for split in SPLITS)

    def open(self, path: Path) -> ForeignDataset:
        metadata = Metadata(path)
        splits = {split: _Episodes.open(path / split) for split in SPLITS if (path / split / TOKENS).is_file()}
        kinds = {split: episodes.companions for split, episodes in splits.items()}
        if len(set(kinds.values())) > 1:
            raise DataError(f"{path}: train and val do not have the same files beside their tokens: {kinds}")
        return ForeignDataset(
            self.name,
            files=(*metadata.files(), *(file.path for episodes in splits.values() for file in episodes.files)),
            tokens=sum(episodes.tokens.count for episodes in splits.values()),
            splits={split: episodes.blocks() for split, episodes in splits.items()},
            companions=next(iter(kinds.values())),
            tokenizer_hint=TAGS_HINT,
            facts=metadata.facts("tokenization", "vocab_size"),
        )


@dataclass(frozen=True, slots=True)
class _Episodes:
    """The files of one split."""

    index: RawFile
    tokens: RawFile
    mask: RawFile
    weights: RawFile | None
    segments: RawFile | None

    @classmethod
    def open(cls, folder: Path) -> "_Episodes":
        index = RawFile.rest_of(folder / INDEX, "<u8")
        if index.count % 2:
            raise DataError(f"{index.path} has {index.count} numbers, an odd one: it was cut short")
        tokens = RawFile.rest_of(folder / TOKENS, "<u4")
        optional = {name: folder / name for name in ("mask_weighted.bin", "segment_ids.bin")}
        weights, segments = (
            RawFile.rest_of(path, dtype) if path.exists() else None
            for path, dtype in zip(optional.values(), ("<f4", "u1"), strict=True)
        )
        found = cls(index, tokens, RawFile.rest_of(folder / "mask.bin", "u1"), weights, segments)
        for file in found.files[2:]:
            if file.count != tokens.count:
                raise DataError(f"{file.path} has {file.count:,} values, {TOKENS} has {tokens.count:,} tokens")
        return found

    @property
    def files(self) -> tuple[RawFile, ...]:
        every = (self.index, self.tokens, self.mask, self.weights, self.segments)
        return tuple(file for file in every if file is not None)

    @property
    def companions(self) -> tuple[Companion, ...]:
        return ("mask", "weights", "segments") if self.weights else ("mask", "segments")

    def blocks(self) -> Blocks:
        def blocks(_: Tokenizer) -> Iterator[Block]:
            files, numbers = PatientFiles(), SegmentNumbers()
            try:
                for spans in self._spans():
                    yield self._block(files, spans, numbers)
            finally:
                files.close()

        return blocks

    def _spans(self) -> Iterator[list[tuple[int, int, bool]]]:
        """Some episodes, or parts of one, at a time: begin, end, and whether the episode begins there."""
        waiting, size = list[tuple[int, int, bool]](), 0
        for pairs in self.index.blocks(1 << 16):
            for start, length in pairs.reshape(-1, 2).tolist():
                if start + length > self.tokens.count:
                    raise DataError(
                        f"{self.index.path} has an episode of tokens {start:,} to {start + length:,}, "
                        f"{TOKENS} has {self.tokens.count:,}"
                    )
                for begin in range(start, start + length, BLOCK_TOKENS):
                    end = min(start + length, begin + BLOCK_TOKENS)
                    waiting.append((begin, end, begin == start))
                    size += end - begin
                    if size >= BLOCK_TOKENS:
                        yield waiting
                        waiting, size = [], 0
        if waiting:
            yield waiting

    def _block(self, files: PatientFiles, spans: list[tuple[int, int, bool]], numbers: SegmentNumbers) -> Block:
        def gather(file: RawFile) -> NDArray[Any]:
            return np.concatenate([file.read(files, begin, end - begin) for begin, end, _ in spans])

        ids = as_ids(gather(self.tokens), self.tokens.path)
        begins = np.zeros(len(ids), np.bool_)
        offsets = np.cumsum([0, *(end - begin for begin, end, _ in spans[:-1])])
        begins[offsets] = [is_begin for _, _, is_begin in spans]
        raw = gather(self.segments) if self.segments else np.ones(len(ids), np.uint8)
        beside: dict[Companion, NDArray[Any]] = {
            "mask": as_mask(gather(self.mask), self.mask.path),
            "segments": numbers.of(raw, begins),
        }
        if self.weights:
            beside["weights"] = as_weights(gather(self.weights), self.weights.path)
        return Block(ids, beside)
