"""Is every byte of a dataset still as it was written?"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from mypt_dist.data.blocks import BLOCK_BYTES, checksums
from mypt_dist.data.companions import COMPANIONS, Companion, DocumentCounter
from mypt_dist.data.entries import CompanionEntry
from mypt_dist.data.manifest import FILE, SPLITS, DatasetManifest, ShardEntry
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.remote.folder import RefusedError, RemoteFolder, StoreError, read_manifest
from mypt_dist.data.scan import FileScan, TokenScan
from mypt_dist.data.shards import TOKENIZER_DIGITS, check_header, little_endian
from mypt_dist.data.versions import version_files
from mypt_dist.errors import DataError


class LocalFolder:
    """What `RemoteFolder` is for a URL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def where(self, name: str) -> str:
        """A file, for people."""
        return str(self._folder / name)

    def size(self, name: str) -> int:
        """Bytes of a file. Raises OSError."""
        return (self._folder / name).stat().st_size

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read from its beginning to its end. Raises OSError."""
        return (self._folder / name).open("rb")

    def names(self) -> list[str]:
        """Every file in it and below, but for those of earlier versions, relative to it."""
        own = set(version_files(self._folder))
        found = (path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if not path.is_dir())
        return sorted(name for name in found if name not in own)


Folder: TypeAlias = LocalFolder | RemoteFolder


def verify_dataset(place: DatasetPlace, progress: Progress | None = None) -> list[str]:
    """Everything that is wrong with the dataset at ``place``, one sentence each; empty if it is whole.

    Reads every byte: the manifest must be the exact text that was written, every listed file must be there with its
    size, sha256 and header and with ids of the vocabulary only, and there must be no other file, but in a folder of
    another program that is read in place.

    Raises `ConfigError` where there is no dataset, `DataError` where a store does not answer.
    """
    folder: Folder = LocalFolder(place) if isinstance(place, Path) else RemoteFolder(place)
    described = str(DatasetManifest.path_in(place)) if isinstance(place, Path) else folder.where(FILE)
    try:
        manifest = read_manifest(place)
        manifest.load_tokenizer()
        spelling = Path(described).read_bytes() if isinstance(place, Path) else _all(folder, FILE)
    except DataError as error:
        return [str(error)]
    is_original = spelling == manifest.to_bytes()
    problems = [] if is_original else [f"{described} was edited: it says the same in another spelling"]
    meter = BytesDone(manifest.bytes_of(*SPLITS), progress)
    for name in SPLITS:
        split = manifest.split(name)
        counter = DocumentCounter(manifest.eot_id)
        for entry in split.shards:
            shard = _Shard(folder, entry, manifest)
            problems += shard.problems(meter)
            for kind, companion in (entry.companions or {}).items():
                problems += _Companion(folder, companion, kind, counter).problems(meter)
            if "segments" not in manifest.companions:
                counter.count(shard.scan.documents)
        for record in manifest.records(name):
            problems += _Records(folder, record).problems(meter)
        if counter.documents != split.documents and not problems:
            problems.append(f"{name} holds {counter.documents:,} documents, {FILE} says {split.documents:,}")
    return problems + ([] if manifest.in_place else _unlisted(folder, manifest))


class _File:
    """A listed file, read from its first byte to its last."""

    scan: FileScan

    def __init__(self, folder: Folder, entry: ShardEntry | CompanionEntry) -> None:
        self._folder, self._path, self._entry = folder, folder.where(entry.file), entry

    def problems(self, meter: BytesDone) -> list[str]:
        try:
            with self._folder.open(self._entry.file) as file:
                return list(self._check(file, meter))
        except FileNotFoundError:
            return [f"{self._path} is missing"]
        except RefusedError as error:
            return [str(error)]
        except StoreError as error:
            raise DataError(str(error)) from None
        except OSError as error:
            return [f"{self._path} cannot be read: {error.strerror}"]

    def _check(self, file: IO[bytes], meter: BytesDone) -> Iterator[str]:
        size = self._folder.size(self._entry.file)
        if size != self._entry.bytes:
            yield f"{self._path} has {size:,} bytes, {FILE} says {self._entry.bytes:,}"
            meter.add(self._entry.bytes)
            return
        yield from self._content(file, meter)

    def _content(self, file: IO[bytes], meter: BytesDone) -> Iterator[str]:
        while block := file.read(BLOCK_BYTES):
            self._take(block)
            meter.add(len(block))
        if not self._is_whole():
            where = self._damaged_blocks()
            yield f"{self._path} has sha256 {self.scan.sha256}, {FILE} says {self._entry.sha256}{where}"
        elif self._entry.crc32 not in (None, self.scan.crc32):
            yield f"{FILE} has wrong checksums of the blocks of {self._path}"

    def _take(self, block: bytes) -> None:
        raise NotImplementedError

    def _is_whole(self) -> bool:
        return self.scan.sha256 == self._entry.sha256

    def _damaged_blocks(self) -> str:
        """Where the damage is: what a run that skips it would leave out."""
        pairs = zip(checksums(self._entry.crc32 or ""), checksums(self.scan.crc32), strict=False)
        damaged = [str(number) for number, (right, found) in enumerate(pairs) if right != found]
        return f" (damaged blocks of 1 MiB: {', '.join(damaged)})" if damaged else ""


class _Shard(_File):
    """Tokens, with the header before them."""

    scan: TokenScan

    def __init__(self, folder: Folder, entry: ShardEntry, manifest: DatasetManifest) -> None:
        super().__init__(folder, entry)
        self._manifest, self._begin, self._is_ours = manifest, entry.begin, entry.offset is None
        self._tokens = entry.tokens
        self.scan = TokenScan(little_endian(manifest.dtype), manifest.eot_id)

    def _content(self, file: IO[bytes], meter: BytesDone) -> Iterator[str]:
        header = file.read(self._begin)
        self.scan.add(header)
        meter.add(len(header))
        yield from super()._content(file, meter)
        yield from self._meaning(header)

    def _take(self, block: bytes) -> None:
        self.scan.add_tokens(block)

    def _meaning(self, header: bytes) -> Iterator[str]:
        """What a hash cannot tell: whether the right bytes were hashed in the first place."""
        expected = {
            "dtype": self._manifest.dtype,
            "tokens": self._tokens,
            "vocab_size": self._manifest.vocab_size,
            "tokenizer": self._manifest.tokenizer.fingerprint[:TOKENIZER_DIGITS],
        }
        try:
            if self._is_ours:
                check_header(header, self._path, expected)
        except DataError as error:
            yield str(error)
        if self.scan.highest >= self._manifest.vocab_size:
            yield f"{self._path} holds token {self.scan.highest:,}, the vocabulary has {self._manifest.vocab_size:,}"


class _Companion(_File):
    """What stands beside the tokens of a shard."""

    def __init__(self, folder: Folder, entry: CompanionEntry, kind: Companion, counter: DocumentCounter) -> None:
        super().__init__(folder, entry)
        self.scan = FileScan()
        self._kind, self._counter = kind, counter

    def _take(self, block: bytes) -> None:
        self.scan.add(block)
        if self._kind == "segments":
            self._counter.add_segments(np.frombuffer(block, COMPANIONS["segments"]))


class _Records(_File):
    """What conversations have besides their texts."""

    def __init__(self, folder: Folder, entry: CompanionEntry) -> None:
        super().__init__(folder, entry)
        self.scan = FileScan()

    def _take(self, block: bytes) -> None:
        self.scan.add(block)


def _all(folder: Folder, name: str) -> bytes:
    with folder.open(name) as file:
        return file.read()


def _unlisted(folder: Folder, manifest: DatasetManifest) -> list[str]:
    listed = {FILE, *(entry.file for entry in manifest.files())}
    return [f"{folder.where(name)} does not belong to the dataset" for name in folder.names() if name not in listed]
