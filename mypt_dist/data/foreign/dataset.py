"""What every reader of a foreign format gives: files, streams of tokens, and what is known of their tokenizer."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.companions import Companion
from mypt_dist.data.files import PatientFiles
from mypt_dist.data.rewrite.blocks import BLOCK_TOKENS, Block
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import Tokenizer

Blocks = Callable[[Tokenizer], Iterator[Block]]
"""Reads a split from its beginning, in bounded memory; the tokenizer knows the ends of text."""
Fact = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A tokenizer for tokens that another program wrote."""

    tokenizer: Tokenizer
    ids: int
    """Ids 0 … ids - 1 mean in it what they meant there."""
    name: str
    """How it was named, or where it was found."""


@dataclass(frozen=True, slots=True)
class ForeignDataset:
    """A dataset of another program, looked at but not yet read."""

    format: str
    files: tuple[Path, ...]
    """Everything that decides its content."""
    tokens: int
    """In all files, those that no document holds included: for progress."""
    splits: Mapping[str, Blocks]
    """``train`` and ``val``, or one of both."""
    raw: Mapping[str, tuple["RawFile", ...]] | None = None
    """The same as mere rows of tokens, if they are nothing more: only such can be read in place."""
    companions: tuple[Companion, ...] = ()
    tokenizer: Chosen | None = None
    """The one it names itself."""
    tokenizer_hint: str = "say which it was written with: --tokenizer gpt2, byte, char:TEXTFILE or a JSON file"
    """What to do where it names none."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """What it says of itself, for the manifest."""
    check: Callable[[int, int], None] = lambda tokens, documents: None
    """Told how many tokens and documents were found; raises `DataError` where it said otherwise."""


class Format(Protocol):
    """A format. Looking reads no more than names and the first bytes of files."""

    name: str
    title: str
    """For people."""

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` holds a dataset of this format."""
        ...

    def open(self, path: Path) -> ForeignDataset:
        """The dataset. Raises `DataError` or `ConfigError` saying what is wrong and where."""
        ...


@dataclass(frozen=True, slots=True)
class RawFile:
    """A row of integers in a file."""

    path: Path
    offset: int
    """Bytes before them."""
    count: int
    dtype: "np.dtype[Any]"

    @classmethod
    def rest_of(cls, path: Path, dtype: str, offset: int = 0) -> "RawFile":
        """Everything from ``offset`` to the end. Raises `DataError` where that is no whole number of values."""
        kind, size = np.dtype(dtype), size_of(path)
        if size < offset or (size - offset) % kind.itemsize:
            raise DataError(
                f"{path} has {size:,} bytes: that is not {offset:,} and a whole number of {kind.itemsize}-byte values; "
                "it was cut short, or is of another type"
            )
        return cls(path, offset, (size - offset) // kind.itemsize, kind)

    def read(self, files: PatientFiles, begin: int, count: int) -> NDArray[Any]:
        """Values [``begin``, ``begin + count``), which must be there. Raises `DataError`."""
        width = self.dtype.itemsize
        data = files.read(self.path, self.offset + self.count * width, self.offset + begin * width, count * width)
        return np.frombuffer(data, self.dtype)

    def blocks(self, size: int = BLOCK_TOKENS) -> Iterator[NDArray[Any]]:
        """All values, ``size`` at a time. Raises `DataError`."""
        files = PatientFiles()
        try:
            for begin in range(0, self.count, size):
                yield self.read(files, begin, min(size, self.count - begin))
        finally:
            files.close()


def raw_split(files: tuple[RawFile, ...]) -> Blocks:
    """A split that is nothing but rows of tokens, one after another."""

    def blocks(_: Tokenizer) -> Iterator[Block]:
        for file in files:
            for values in file.blocks():
                yield Block(as_ids(values, file.path))

    return blocks


def raw_dataset(
    name: str,
    splits: Mapping[str, tuple[RawFile, ...]],
    beside: tuple[Path, ...] = (),
    **known: Any,
) -> ForeignDataset:
    """A dataset that is nothing but rows of tokens. ``known``: the other fields of `ForeignDataset`."""
    raw = {split: files for split, files in splits.items() if files}
    every = [file for files in raw.values() for file in files]
    return ForeignDataset(
        name,
        files=(*beside, *(file.path for file in every)),
        tokens=sum(file.count for file in every),
        splits={split: raw_split(files) for split, files in raw.items()},
        raw=raw,
        **known,
    )


def as_ids(values: NDArray[Any], path: Path) -> NDArray[np.uint32]:
    """``values`` as ids. Raises `DataError` for a number that cannot be one."""
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= 1 << 32):
        wrong = int(values.min()) if int(values.min()) < 0 else int(values.max())
        raise DataError(f"{path} holds {wrong}, which is no id of a token: it is damaged, or of another type")
    return values.astype(np.uint32, copy=False)


def size_of(path: Path) -> int:
    """Bytes of an ordinary file. Raises `ConfigError` where there is none."""
    try:
        if not path.is_file():
            raise ConfigError(f"no such file: {path}")
        return path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def first_bytes(path: Path, count: int) -> bytes:
    """At most ``count`` from the beginning of a file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def files_in(path: Path, suffix: str) -> tuple[Path, ...]:
    """The files of this suffix: ``path`` itself, or those in the folder ``path``, by name; none where it is neither."""
    try:
        if path.is_dir():
            return tuple(Path(entry) for entry in sorted(os.scandir(path), key=lambda e: e.name) if _has(entry, suffix))
        return (path,) if path.is_file() and path.suffix == suffix else ()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _has(entry: "os.DirEntry[str]", suffix: str) -> bool:
    return entry.name.endswith(suffix) and entry.is_file()


def by_split(files: tuple[RawFile, ...]) -> dict[str, tuple[RawFile, ...]]:
    """Files whose name says ``val``, ``valid`` or ``validation`` validate; all others train."""
    splits: dict[str, tuple[RawFile, ...]] = {"train": (), "val": ()}
    for file in files:
        words = file.path.stem.lower().replace("-", "_").split("_")
        split = "val" if {"val", "valid", "validation"} & set(words) else "train"
        splits[split] = (*splits[split], file)
    return splits
