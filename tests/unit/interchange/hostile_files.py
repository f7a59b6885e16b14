"""Files of torch.save that are not what they seem: made by hand, entry by entry."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Reduced:
    """Pickled as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


class Storage:
    """What a tensor's bytes are pickled as."""

    def __init__(self, key: str, elements: int) -> None:
        self.id = ("storage", torch.FloatStorage, key, "cpu", elements)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Storage) else None


def claimed(
    key: str, elements: int, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, start: int = 0
) -> Reduced:
    """A tensor that says so of itself."""
    strides = strides or torch.empty(shape, device="meta").stride()
    return Reduced(torch._utils._rebuild_tensor_v2, Storage(key, elements), start, shape, strides, False, OrderedDict())


def torch_file(
    path: Path, content: Any, records: Mapping[str, bytes] = {}, *, method: int = zipfile.ZIP_STORED
) -> Path:
    """``content`` pickled, and ``records`` beside it."""
    pickled = io.BytesIO()
    _Pickler(pickled, 2).dump(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        for name, record in {"version": b"3\n", "byteorder": b"little", **records}.items():
            archive.writestr(f"archive/{name}", record)
    return path


def doubled(levels: int) -> list[Any]:
    """A small pickle that unfolds to 2 ** ``levels`` lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


def endless() -> list[Any]:
    """A list in itself."""
    value: list[Any] = []
    value.append(value)
    return value


def overlapping(path: Path) -> Path:
    """An archive whose index gives two names to the same bytes."""
    torch_file(path, {}, {"data/0": bytes(64), "data/1": bytes(64)})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"archive/data/{key}").header_offset for key in (0, 1))
    place = content.rindex(struct.pack("<L", second))
    content[place : place + 4] = struct.pack("<L", first)
    path.write_bytes(content)
    return path
