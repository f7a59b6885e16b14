"""The side that trusts nothing: asks the confined process what a file holds, and holds the answer against the file."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mypt_dist.config.strict_json import parse_json
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.interchange.torch_files.archive import Record, records
from mypt_dist.interchange.torch_files.confinement import CPU_S, MEMORY
from mypt_dist.interchange.torch_files.stored import OpenFile, StoredTensor

MAX_ANSWER = 256 << 20
"""Bytes that the confined process may say."""
WAIT_S = 180.0
"""For an answer. Loading torch takes seconds, minutes on a disk that is asleep."""
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")
"""All that the confined process sees of the environment, which may hold secrets."""

MAX_DIMENSIONS = 8

DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"},
}


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that is neither a tensor nor a plain value."""

    what: str


Tree: TypeAlias = "bool | int | float | str | Opaque | StoredTensor | list[Tree] | dict[Any, Tree] | None"
Outline: TypeAlias = Callable[[Sequence[int]], bytes]
"""Given descriptors, the lines of `outline.main`."""


@contextmanager
def read_torch_files(paths: Sequence[Path], outline: Outline | None = None) -> Iterator[list[Tree]]:
    """What each file holds; the bytes of tensors can be read until the ``with`` ends.

    Raises `CheckpointError` for a file that is damaged, that holds more than tensors and plain values, or that claims
    what it does not have; `ConfigError` for one that cannot be opened.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(path)) for path in paths]
        indexes = []
        for one in opened:
            with os.fdopen(os.dup(one.descriptor), "rb") as file:
                indexes.append(records(file, str(one.path)))
        lines = (outline or _in_confinement)([one.descriptor for one in opened]).splitlines()
        if len(lines) != len(opened):
            raise CheckpointError(
                f"{opened[min(len(lines), len(opened) - 1)].path} is not read: the process that looked into it gave no "
                f"answer, as if it had needed more than {CPU_S} s, {MEMORY >> 20} MiB or {WAIT_S:.0f} s to start"
            )
        yield [_File(*both).tree(line) for both, line in zip(zip(opened, indexes, strict=True), lines, strict=True)]


@contextmanager
def _opened(path: Path) -> Iterator[OpenFile]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    try:
        yield OpenFile(path, descriptor)
    finally:
        os.close(descriptor)


def _in_confinement(descriptors: Sequence[int]) -> bytes:
    """Start the process, hear it out within limits, and end it."""
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    for descriptor in descriptors:
        os.lseek(descriptor, 0, os.SEEK_SET)
    with subprocess.Popen(
        [sys.executable, "-P", "-B", "-m", "mypt_dist.interchange.torch_files.outline", *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=tuple(descriptors),
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd="/",
    ) as process:
        assert process.stdout is not None
        too_late = threading.Timer(WAIT_S, process.kill)
        too_late.start()
        try:
            said = process.stdout.read(MAX_ANSWER)
        finally:
            too_late.cancel()
            process.kill()
        process.wait()
    return said


class _File:
    """Turns an answer into values."""

    def __init__(self, file: OpenFile, index: dict[str, Record]) -> None:
        self._file = file
        self._data = {record.begin: record for name, record in index.items() if name.startswith("data/")}

    def tree(self, line: bytes) -> Tree:
        """Raises `CheckpointError`."""
        try:
            answer = parse_json(line.decode(), "the answer")
            if "error" in answer:
                raise CheckpointError(f"{self._file.path} is not read: {answer['error']}")
            return self._value(*answer["tree"])
        except (ConfigError, LookupError, TypeError, ValueError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{self._file.path} is not read: no sense in what it holds ({reason})") from None

    def _value(self, kind: str, content: Any) -> Tree:
        match kind:
            case "value":
                return _scalar(content)
            case "dict":
                return {self._key(*key): self._value(*inner) for key, inner in content}
            case "list":
                return [self._value(*inner) for inner in content]
            case "tensor":
                return self._tensor(*content)
        return Opaque(str(content))

    def _key(self, kind: str, content: Any) -> str | int:
        if kind != "value" or not isinstance(content, str | int):
            raise ValueError(f"a key is {json.dumps(content)[:80]}")
        return content

    def _tensor(self, kind: str, place: int, offset: int, shape: list[int], strides: list[int]) -> Tree:
        if not all(type(number) is int for number in (place, offset, *shape, *strides)) or len(shape) > MAX_DIMENSIONS:
            raise ValueError("a tensor is told in no way that it could be")
        # A storage without elements has no place of its own.
        record = self._data.get(place) or (Record(place, 0, 0) if 0 in shape else None)
        if record is None:
            raise ValueError(f"a tensor is said to lie at byte {place:,}, where none begins")
        if kind not in DTYPES:
            return Opaque(f"tensor of {kind}")
        tensor = StoredTensor(self._file, record, DTYPES[kind], tuple(shape), tuple(strides), offset)
        if problem := tensor.problem():
            raise ValueError(f"a tensor {problem}")
        return tensor


def _scalar(value: Any) -> bool | int | float | str | None:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"a value is {json.dumps(value)[:80]}")
    return value
