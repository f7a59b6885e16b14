"""A dataset of another program is described where it lies, so that runs can read it in place.

The description is made once, by reading every byte: hashes, checksums of blocks, the largest id. It stands beside the
folder, or in the user's cache where that cannot be written; the folder itself is never touched. A run does not make one
on its way: a job on many GPUs must not begin by reading terabytes, and every rank needs the same description.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mypt_dist.data.companions import DocumentCounter
from mypt_dist.data.durable import write_new
from mypt_dist.data.foreign.convert import ForeignOptions, described, require_known_ids
from mypt_dist.data.foreign.dataset import Chosen, ForeignDataset, RawFile, as_ids, first_bytes
from mypt_dist.data.foreign.identity import Standing, content_hash
from mypt_dist.data.foreign.registry import open_foreign
from mypt_dist.data.foreign.tokenizer import choose
from mypt_dist.data.in_place import index_places
from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import SPLITS, DatasetManifest, Dtype, ShardEntry, SplitEntry, Splits
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.rewrite.blocks import Block
from mypt_dist.data.scan import FileScan, sha256_of
from mypt_dist.errors import ConfigError, DataError

_READABLE: dict[str, Dtype] = {"<u2": "uint16", "<u4": "uint32", "<i4": "uint32"}
"""Types that a run reads as they are. Ids of 31 bits are spelled alike with and without a sign."""


def adopt(
    path: Path, options: ForeignOptions | None = None, progress: Progress | None = None
) -> tuple[DatasetManifest, Path]:
    """Describe the dataset of another program in the folder ``path``, so that ``data.path`` may name it.

    Returns the description, and the file it stands in. Raises `ConfigError` for what cannot be read in place or is of
    an unknown format or tokenizer, `DataError` for data that is not what it says of itself.
    """
    options = options or ForeignOptions()
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder; a run reads a folder in place, mypt data convert takes files too")
    foreign = open_foreign(path, options.format)
    dtype = _common_type(path, foreign)
    chosen = choose(options.tokenizer, foreign)
    standing = Standing.of(foreign.files)
    done, hashes = BytesDone(standing.bytes, progress), dict[Path, str]()
    assert foreign.raw is not None, "_common_type has looked"
    entries = {split: _Scan(path, chosen).split(foreign.raw.get(split, ()), done, hashes) for split in SPLITS}
    hashes |= {file: sha256_of(file, done.add) for file in foreign.files if file not in hashes}
    standing.require_unchanged()
    splits = Splits(**entries)
    if not splits.train.tokens + splits.val.tokens:
        raise ConfigError(f"{path} holds not a single token")
    identity = content_hash(path, list(hashes.items()))
    plain = described(path, foreign, chosen, splits, identity)
    manifest = plain.with_origin(made("adopt"), in_place=foreign.format, dtype=dtype)
    return manifest, _write_index(path, manifest)


class _Scan:
    """Reads tokens where they lie and describes them."""

    def __init__(self, root: Path, chosen: Chosen) -> None:
        self._root, self._chosen = root, chosen
        self._lengths = chosen.tokenizer.byte_lengths()

    def split(self, files: Iterable[RawFile], done: BytesDone, hashes: dict[Path, str]) -> SplitEntry:
        shards, text_bytes = list[ShardEntry](), 0
        documents = DocumentCounter(self._chosen.tokenizer.eot_id)
        for file in files:
            scan = FileScan()
            scan.add(first_bytes(file.path, file.offset))
            for values in file.blocks():
                ids = as_ids(values, file.path)
                require_known_ids(Block(ids), self._chosen, file.path)
                scan.add(values.data.cast("B"))
                documents.add(ids)
                text_bytes += int(self._lengths[ids].sum(dtype=np.int64))
                done.add(values.nbytes)
            hashes[file.path] = scan.sha256
            if file.count:
                shards.append(self._entry(file, scan))
        tokens = sum(shard.tokens for shard in shards)
        return SplitEntry(tokens=tokens, documents=documents.documents, bytes=text_bytes, shards=tuple(shards))

    def _entry(self, file: RawFile, scan: FileScan) -> ShardEntry:
        return ShardEntry(
            file=file.path.relative_to(self._root).as_posix(),
            bytes=scan.bytes,
            tokens=file.count,
            sha256=scan.sha256,
            crc32=scan.crc32,
            offset=file.offset,
        )


def _common_type(path: Path, foreign: ForeignDataset) -> Dtype:
    """The type of all tokens. Raises `ConfigError` where they cannot be read in place."""
    if foreign.raw is None:
        what = f"it has {' and '.join(foreign.companions)}" if foreign.companions else "its documents are in an index"
        raise ConfigError(f"{path} cannot be read in place: {what}. Convert it: mypt data convert {path} --out DIR")
    types = {file.dtype.str for files in foreign.raw.values() for file in files}
    readable = {_READABLE[name] for name in types if name in _READABLE}
    if len(types) != 1 or not readable:
        raise ConfigError(
            f"{path} cannot be read in place: its tokens are of type {' and '.join(sorted(types))}, a run reads "
            f"{', '.join(_READABLE)}. Convert it: mypt data convert {path} --out DIR"
        )
    return readable.pop()


def _write_index(folder: Path, manifest: DatasetManifest) -> Path:
    """Put the description where `find_index` looks. Raises `DataError` where no place can be written."""
    problems = []
    for place in index_places(folder):
        aside = place.with_name(f"{place.name}.{os.getpid()}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_new(aside, manifest.to_bytes())
            aside.replace(place)
        except OSError as error:
            aside.unlink(missing_ok=True)
            problems.append(f"{place}: {error.strerror}")
            if place.exists():
                # An older description there would be found before any other.
                break
        else:
            return place
    raise DataError(f"the description of {folder} cannot be written: {'; '.join(problems)}")
