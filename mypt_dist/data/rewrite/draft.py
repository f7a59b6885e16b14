"""How is a dataset written whose tokens exist already?"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mypt_dist.data.companions import Companion
from mypt_dist.data.manifest import DatasetManifest, Splits
from mypt_dist.data.prepare.counting import CountingWriter
from mypt_dist.data.prepare.staging import publish, staged
from mypt_dist.data.prepare.writer import split_writers
from mypt_dist.data.rewrite.blocks import Block
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import Tokenizer

SHARD_TOKENS = 100_000_000
"""Tokens in every shard but the last: as many as `mypt data prepare` writes."""


class Draft:
    """A dataset that is being written. It is one when `publish` returns, and nothing if it is never called."""

    def __init__(self, staging: Path, writers: dict[str, CountingWriter]) -> None:
        """``staging``: see `staged`. What else lies there in the folder of a split becomes a part of the dataset."""
        self.folder, self._writers = staging, writers
        self.tokens = 0

    def append(self, split: str, block: Block) -> None:
        """Raises `DataError` where the disk refuses."""
        self.tokens += len(block)
        self._writers[split].append(block.tokens, block.companions)

    def publish(self, describe: Callable[[Splits], DatasetManifest]) -> DatasetManifest:
        """Make it a dataset; ``describe`` makes its manifest. Raises `DataError` where the disk refuses."""
        splits = Splits(train=self._writers["train"].close(), val=self._writers["val"].close())
        if not self.tokens:
            raise ConfigError(f"nothing to write to {self.folder.parent}: there is not a single token")
        manifest = describe(splits)
        publish(self.folder, manifest)
        return manifest


@contextmanager
def draft(
    out: Path,
    tokenizer: Tokenizer,
    companions: Sequence[Companion] = (),
    *,
    overwrite: bool = False,
    shard_tokens: int = SHARD_TOKENS,
) -> Iterator[Draft]:
    """A dataset to be written to ``out``. Raises as `staged`."""
    with (
        staged(out, overwrite=overwrite) as staging,
        split_writers(staging, tokenizer, shard_tokens, companions) as writers,
    ):
        yield Draft(staging, {name: CountingWriter(writer, tokenizer) for name, writer in writers.items()})


def require_no_rows(folder: Path, manifest: DatasetManifest, doing: str) -> None:
    """Raise `ConfigError` where samples are rows: documents taken one by one would tear them apart."""
    if manifest.row_length is not None:
        raise ConfigError(
            f"{folder} holds conversations packed in rows of {manifest.row_length:,} tokens, which stay whole: it "
            f"cannot be {doing}. Prepare the files anew (mypt data prepare-chat), or get them back (mypt data "
            f"export-chat {folder}); datasets are mixed in data.sources"
        )


def apart(out: Path, *inputs: Path) -> None:
    """Raise `ConfigError` where ``out`` is, holds or lies in one of the ``inputs``: they must stay as they are."""
    for given in inputs:
        new, old = out.resolve(), given.resolve()
        if new.is_relative_to(old) or old.is_relative_to(new):
            raise ConfigError(f"--out {out} and {given} overlap; what is read stays as it is: choose another folder")
