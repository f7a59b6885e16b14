"""What the commands for datasets have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import print_table

if TYPE_CHECKING:
    from mypt_dist.data.manifest import DatasetManifest

Dataset = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a dataset.")]
AnyDataset = Annotated[str, typer.Argument(metavar="DIR|URL", help="The folder of a dataset, or the URL of one.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a finished dataset in DIR.")]


@contextmanager
def fetched(dataset: str) -> Iterator[Path]:
    """The folder of a dataset; one behind a URL is fetched first, with progress shown."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.remote.local import as_folder

    where = place(dataset)
    if isinstance(where, Path):
        yield where
        return
    with byte_progress("fetching") as progress, as_folder(where, progress) as folder:
        yield folder


def place(dataset: str) -> Path | str:
    """What the user means. Raises `ConfigError` for what is neither a path nor a URL."""
    from mypt_dist.data.place import place_of
    from mypt_dist.errors import ConfigError

    try:
        return place_of(dataset)
    except ValueError as error:
        raise ConfigError(f"{dataset!r}: {error}") from None


def print_manifest(manifest: "DatasetManifest", where: str) -> None:
    """What a dataset holds, as a table."""
    from mypt_dist.data.manifest import SPLITS

    rows = [
        [name, f"{split.documents:,}", f"{split.tokens:,}", f"{split.bytes:,}", str(len(split.shards))]
        for name in SPLITS
        for split in [manifest.split(name)]
    ]
    beside = f", with {' and '.join(manifest.companions)}" if manifest.companions else ""
    in_place = f", {manifest.in_place} read in place" if manifest.in_place else ""
    print(f"{where}: {manifest.tokenizer.kind}, {manifest.vocab_size:,} ids, {manifest.dtype}{beside}{in_place}")
    print_table(["split", "documents", "tokens", "text bytes", "shards"], rows)
    if left_out := manifest.counts.left_out():
        print("left out: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in left_out.items()))
