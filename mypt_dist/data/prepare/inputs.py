"""Which files does a list of files, folders and globs stand for?"""

import glob
import os
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.data.formats import JsonLines, TextFormat, WholeFile
from mypt_dist.data.prepare.streams import PACKINGS
from mypt_dist.errors import ConfigError

TEXT_SUFFIXES = (".txt", ".md", ".py")
"""One document a file."""
LINE_SUFFIXES = (".jsonl",)
"""One document a line."""
ACCEPTED = f"{' '.join((*TEXT_SUFFIXES, *LINE_SUFFIXES))}, each also with {' '.join(PACKINGS)}"

STDLIB = "stdlib"
"""Stands for `stdlib_files`, unless there is a file of this name."""
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled"}


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read."""

    path: Path
    argument: int
    """Index of the input it was found through."""
    size: int
    """Bytes on disk; 0 where that cannot be told."""

    packing: str
    """One of `PACKINGS`, or nothing."""
    format: TextFormat
    """What is a document in it."""


def find_files(inputs: Sequence[str | Path], lines: JsonLines | None = None) -> Iterator[InputFile]:
    """The accepted files of every input, in the order of the inputs and sorted by name within each.

    A file must have an accepted suffix. A folder is searched to any depth, without hidden entries and without
    following links to folders. Anything else is a glob, ``**`` included. Lazy: nothing but the names of one folder
    at a time is held in memory. ``lines``: where the text is in JSON Lines.

    Raises `ConfigError` for an input that does not exist, is not text or holds no text.
    """
    if not inputs:
        raise ConfigError(f"nothing to prepare: give files, folders or globs of {ACCEPTED}; or {STDLIB}")
    for argument, given in enumerate(inputs):
        found = False
        for path in _expand(str(given)):
            found = True
            yield _described(path, argument, lines or JsonLines())
        if not found:
            raise ConfigError(f"{str(given)!r} holds no text: looked for {ACCEPTED}")


def stdlib_files() -> list[Path]:
    """The source files of this Python's own standard library, sorted; without tests and installed packages."""
    return [
        path
        for path in _walk(sysconfig.get_path("stdlib"), skip=_NOT_STDLIB)
        if path.suffix == ".py" and path.is_file()
    ]


def _described(path: Path, argument: int, lines: JsonLines) -> InputFile:
    inner, packing = _unpacked(path.name)
    return InputFile(path, argument, size_of(path), packing, lines if inner.endswith(LINE_SUFFIXES) else WholeFile())


def size_of(path: Path) -> int:
    """Bytes on disk; 0 where that cannot be told."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _unpacked(name: str) -> tuple[str, str]:
    """A file's name in small letters without the suffix of its packing, and that suffix."""
    name = name.lower()
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    return name.removesuffix(packing), packing


def _expand(given: str) -> Iterator[Path]:
    path = Path(given)
    if path.is_dir():
        yield from filter(_is_accepted, _walk(given))
    elif path.exists():
        if not path.is_file() or not _is_accepted(path):
            raise ConfigError(f"{given} cannot be prepared: accepted are files of {ACCEPTED}")
        yield path
    elif given == STDLIB:
        yield from stdlib_files()
    elif glob.has_magic(given):
        # Path.glob takes no absolute pattern.
        for match in sorted(glob.iglob(given, recursive=True)):  # noqa: PTH207
            if _is_accepted(Path(match)) and Path(match).is_file():
                yield Path(match)
    else:
        raise ConfigError(f"no such file or folder: {given} (accepted are files, folders and globs of {ACCEPTED})")


def _walk(folder: str, skip: Collection[str] = ()) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be read: {error.strerror}") from None
    for name, is_folder in names:
        if name.startswith(".") or name in skip:
            continue
        if is_folder:
            yield from _walk(f"{folder}/{name}", skip)
        else:
            yield Path(folder, name)


def _is_accepted(path: Path) -> bool:
    return _unpacked(path.name)[0].endswith((*TEXT_SUFFIXES, *LINE_SUFFIXES))
