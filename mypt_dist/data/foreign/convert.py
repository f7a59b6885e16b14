"""A dataset of another program becomes one of ours, masks and documents included."""

from dataclasses import dataclass
from pathlib import Path

from mypt_dist.data.entries import SourceEntry
from mypt_dist.data.foreign.dataset import Chosen, ForeignDataset
from mypt_dist.data.foreign.identity import Standing, content_hash
from mypt_dist.data.foreign.registry import open_foreign
from mypt_dist.data.foreign.tokenizer import choose
from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import Counts, DatasetManifest, Splits
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.rewrite.blocks import Block
from mypt_dist.data.rewrite.draft import SHARD_TOKENS, apart, draft
from mypt_dist.data.scan import sha256_of
from mypt_dist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ForeignOptions:
    """What a user may say of the dataset of another program."""

    format: str | None = None
    """By name; None: recognised by content."""
    tokenizer: str | None = None
    """See `named_tokenizer`; None: the one that the data names."""
    overwrite: bool = False
    shard_tokens: int = SHARD_TOKENS


def convert(
    path: Path, out: Path, options: ForeignOptions | None = None, progress: Progress | None = None
) -> DatasetManifest:
    """Write the dataset of another program at ``path`` to ``out``, in bounded memory; it stays as it is.

    ``out`` is a whole dataset in the end, or what it was before. Raises `ConfigError` for a format or a tokenizer that
    is not known or does not fit, `DataError` for data that is not what it says of itself and where the disk refuses.
    """
    options = options or ForeignOptions()
    foreign = open_foreign(path, options.format)
    chosen = choose(options.tokenizer, foreign)
    apart(out, path)
    standing = Standing.of(foreign.files)
    # Each file is read twice, to hash it and to convert it.
    done = BytesDone(2 * standing.bytes, progress)
    with draft(
        out, chosen.tokenizer, foreign.companions, overwrite=options.overwrite, shard_tokens=options.shard_tokens
    ) as new:
        hashes = [(file, sha256_of(file, done.add)) for file in foreign.files]
        share = standing.bytes / max(1, foreign.tokens)
        for split, blocks in foreign.splits.items():
            for block in blocks(chosen.tokenizer):
                require_known_ids(block, chosen, path)
                new.append(split, block)
                done.add(int(share * len(block)))
        standing.require_unchanged()

        def describe(splits: Splits) -> DatasetManifest:
            return described(path, foreign, chosen, splits, content_hash(path, hashes)).with_origin(made("convert"))

        return new.publish(describe)


def described(path: Path, foreign: ForeignDataset, chosen: Chosen, splits: Splits, sha256: str) -> DatasetManifest:
    """The manifest of tokens that were taken from ``foreign``."""
    entries = (splits.train, splits.val)
    tokens, documents = sum(entry.tokens for entry in entries), sum(entry.documents for entry in entries)
    foreign.check(tokens, documents)
    source = SourceEntry(
        path=str(path),
        files=len(foreign.files),
        documents=documents,
        bytes=sum(entry.bytes for entry in entries),
        sha256=sha256,
    )
    counts = Counts(files=len(foreign.files), documents=documents)
    settings = {"format": foreign.format, "tokenizer": chosen.name, **foreign.facts}
    return DatasetManifest.create(chosen.tokenizer, splits, (source,), counts, settings)


def require_known_ids(block: Block, chosen: Chosen, path: Path) -> None:
    """Raise `ConfigError` for a token that the tokenizer does not have, or means differently."""
    highest = int(block.tokens.max(initial=0))
    if highest >= chosen.ids:
        raise ConfigError(
            f"{path} holds token {highest:,}; {chosen.name} has ids 0 to {chosen.ids - 1:,}: the data was written with "
            "another tokenizer, say which: --tokenizer"
        )
