"""MyPT's pretraining shards, weighted or not: ``{train,val}/shard_%05d.bin``, little-endian uint32, no separators."""

from pathlib import Path

from mypt_dist.data.foreign.dataset import ForeignDataset, RawFile, raw_dataset
from mypt_dist.data.foreign.mypt_metadata import SPLITS, Metadata, has_shards, mask_of, token_shards


class MyptPretraining:
    name = "mypt"
    title = "pretraining shards of MyPT, weighted mixtures included"

    def recognises(self, path: Path) -> bool:
        folders = [path / split for split in SPLITS if has_shards(path / split)]
        return bool(folders) and not any(mask_of(folder / "shard_00000.bin").exists() for folder in folders)

    def open(self, path: Path) -> ForeignDataset:
        metadata = Metadata(path)
        raw = {
            split: tuple(RawFile.rest_of(shard, "<u4") for shard in token_shards(path / split))
            for split in SPLITS
            if (path / split).is_dir()
        }
        for split, files in raw.items():
            metadata.expect(len(files), f"{split} shards", f"{split}_shards")
        found = raw_dataset(
            self.name,
            raw,
            metadata.files(),
            tokenizer=metadata.tokenizer(),
            facts=metadata.facts("tokenization", "vocab_size", "val_fraction"),
        )
        metadata.expect(found.tokens, "tokens", "total_tokens_written", "total_tokens")
        return found
