"""The lines of files of conversations, and a place for those that cannot be used."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mypt_dist.config.strict_json import parse_json
from mypt_dist.data.durable import sync_folder
from mypt_dist.data.prepare.inputs import LINE_SUFFIXES, InputFile, find_files
from mypt_dist.data.prepare.reading import MAX_LINE_BYTES, whole_lines
from mypt_dist.data.prepare.streams import TextBytes, UnreadableError
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.progress import BytesDone
from mypt_dist.errors import ConfigError, DataError

_MAYBE_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""The escape of half a character: UTF-8 cannot express one without the other."""

SHOWN = 20
"""Lines that are named where none may be wrong."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank."""

    file: Path
    argument: int
    """Index of the input it was found through."""
    number: int
    """From 1."""
    data: bytes | None
    """Without its end; None: it is too long to be read with bounded memory."""

    @property
    def where(self) -> str:
        """For people and editors."""
        return f"{self.file}:{self.number}"

    def value(self) -> Any:
        """Its JSON value. Raises `MyptError` saying what is wrong with it."""
        if self.data is None:
            raise DataError(f"it has more than {MAX_LINE_BYTES:,} bytes")
        try:
            text = self.data.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"byte {error.start + 1} is {self.data[error.start]:#04x}, which is not UTF-8") from None
        value = parse_json(text, "the line")
        if _MAYBE_HALF.search(self.data):
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise DataError(f"it holds {error.object[error.start]!a}, half a character") from None
        return value


def chat_files(inputs: Sequence[str | Path]) -> list[InputFile]:
    """The files of conversations that ``inputs`` stand for. Raises `ConfigError`."""
    files = list(find_files(inputs))
    strange = next((file.path for file in files if not _is_lines(file)), None)
    if strange is not None:
        raise ConfigError(f"{strange} is no file of conversations: they stand one a line in .jsonl files")
    return files


def lines_of(file: InputFile, done: BytesDone) -> Iterator[Line]:
    """Raises `DataError` where the file cannot be read to its end: half of it would be taken for the whole."""
    number = 1
    try:
        with TextBytes(file.path, file.packing) as stream:
            for run in whole_lines(stream):
                done.add(stream.advanced())
                if run is None:
                    yield Line(file.path, file.argument, number, None)
                    number += 1
                    continue
                for data in run.removesuffix(b"\n").split(b"\n"):
                    if data.strip():
                        yield Line(file.path, file.argument, number, data)
                    number += 1
            done.add(stream.advanced())
    except UnreadableError as error:
        raise DataError(f"{file.path} cannot be read: {error}") from None


class Quarantine:
    """Takes lines that cannot be used."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file
        self.count = 0
        self._shown: list[str] = []

    def take(self, line: Line, reason: str) -> None:
        """Raises `DataError` where the disk refuses."""
        self.count += 1
        if self._file is None:
            if self.count <= SHOWN:
                self._shown.append(f"  {line.where}: {reason}")
            return
        text = (line.data or b"").decode("utf-8", "replace")
        told = {"file": str(line.file), "line": line.number, "reason": reason, "text": text}
        with writing(Path(self._file.name)):
            self._file.write(json.dumps(told, ensure_ascii=False) + "\n")

    def require_none(self) -> None:
        """Raise `DataError` naming the lines, where there is no file they could go to."""
        if self._file is None and self.count:
            more = [f"  … and {self.count - SHOWN:,} more"] if self.count > SHOWN else []
            raise DataError(
                "\n".join([f"{self.count:,} lines cannot be used:", *self._shown, *more])
                + "\ncorrect them, or have them put aside: --quarantine FILE"
            )


@contextmanager
def quarantine(path: Path | None) -> Iterator[Quarantine]:
    """One that writes ``path``, which appears when all is done, or none. Raises `ConfigError`, `DataError`."""
    if path is None:
        yield Quarantine(None)
        return
    aside = path.with_name(f".{path.name}.new")
    try:
        file = aside.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--quarantine {path} cannot be written: {error.strerror}") from None
    try:
        with file:
            yield Quarantine(file)
        with writing(path):
            aside.replace(path)
            sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _is_lines(file: InputFile) -> bool:
    return file.path.name.lower().removesuffix(file.packing).endswith(LINE_SUFFIXES)
