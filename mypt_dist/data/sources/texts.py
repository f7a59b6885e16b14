"""Which files of a source are its text, and what is a document in them?"""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.data.archives import Archive, kind_of, without_suffix
from mypt_dist.data.archives.kinds import PACKING
from mypt_dist.data.formats import TextFormat, WholeFile, format_of
from mypt_dist.data.sources.config import Source
from mypt_dist.data.sources.layout import SourceFolder
from mypt_dist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TextInput:
    """A file of text."""

    path: Path
    packing: str
    """``.gz``, ``.bz2``, ``.xz``, ``.zst`` or nothing."""
    format: TextFormat


def archives_of(source: Source, folder: SourceFolder, beside: Path) -> list[Archive]:
    """What must be unpacked, as the source names it. ``beside``: where its relative paths begin.

    A local file that is packed alone stays as it is: it is read that way.
    """
    if source.type == "split_zip":
        parts = tuple(folder.download / download.file for download in source.urls)
        return [Archive(parts, "split_zip", source.combined_name or parts[0].name)]
    if source.urls:
        files = [folder.download / download.file for download in source.urls]
        kinds = [(path, source.kind_of(path.name)) for path in files]
        return [Archive((path,), kind, path.name) for path, kind in kinds if kind != "plain"]
    kinds = [(path, source.kind_of(path.name)) for path in local_files(source, beside)]
    archives = [Archive((path,), kind, path.name) for path, kind in kinds if kind == "zip" or kind.startswith("tar")]
    names = [archive.name for archive in archives]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two archives of one source are called {twice[0]!r}: make them two sources")
    return archives


def local_files(source: Source, beside: Path) -> list[Path]:
    """The files that ``paths`` stands for, sorted within each. Raises `ConfigError` for one that stands for none."""
    found: dict[Path, None] = {}
    missing = []
    for pattern in source.paths:
        # Path.glob takes no absolute pattern.
        matches = [Path(match) for match in sorted(glob.glob(str(beside / pattern), recursive=True))]  # noqa: PTH207
        files = [path for path in matches if path.is_file()]
        found |= dict.fromkeys(files)
        missing += [] if files else [str(beside / pattern)]
    if missing:
        raise ConfigError(f"there is no file {', '.join(missing)} (all files of a folder: FOLDER/**/*)")
    return list(found)


def text_inputs(source: Source, folder: SourceFolder, beside: Path) -> list[TextInput]:
    """The text of a source that was fetched, in an order that depends on names alone.

    ``beside``: where relative paths of the source begin. Raises `ConfigError` where there is none, and for a file
    that is asked for and may be anything.
    """
    inputs = [_described(source, path, is_named) for path, is_named in _candidates(source, folder, beside)]
    found = [text for text in inputs if text is not None]
    if not found:
        wanted = ", ".join(source.final_pattern) or "names that end as text does, such as *.txt or *.jsonl"
        raise ConfigError(f"nothing in {folder.path} is text: looked for {wanted} (final_pattern)")
    return found


def _candidates(source: Source, folder: SourceFolder, beside: Path) -> Iterator[tuple[Path, bool]]:
    """Files, each with whether the source means it in particular."""
    archives = {path for archive in archives_of(source, folder, beside) for path in archive.paths}
    is_named = bool(source.final_pattern)
    if source.paths:
        yield from ((path, True) for path in local_files(source, beside) if path not in archives)
    else:
        own = {folder.download / download.file for download in source.urls} - archives
        yield from ((path, is_named) for path in _matching(folder.download, source.final_pattern) if path in own)
    if archives:
        yield from ((path, is_named) for path in _matching(folder.files, source.final_pattern))


def _matching(root: Path, patterns: Sequence[str]) -> list[Path]:
    found = {path for pattern in patterns or ("*",) for path in root.rglob(pattern)}
    return sorted(path for path in found if path.is_file())


def _described(source: Source, path: Path, is_named: bool) -> TextInput | None:
    """``path`` as text; None where nothing says that it is. Raises `ConfigError` where it is named all the same."""
    kind = kind_of(path.name)
    is_archive = kind == "zip" or kind.startswith("tar")
    text_format = source.format or format_of(without_suffix(path.name))
    if text_format is not None and not is_archive:
        return TextInput(path, PACKING.get(kind, ""), text_format)
    if not is_named:
        return None
    if is_archive:
        raise ConfigError(f"{path} is an archive within an archive, which is not opened (final_pattern)")
    if path.name.lower().endswith(".tsv"):
        raise ConfigError(f'{path}: say which column is the text, such as "format": {{"type": "tsv", "column": 3}}')
    return TextInput(path, PACKING.get(kind, ""), WholeFile())
