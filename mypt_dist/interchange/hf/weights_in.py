"""The tensors of safetensors files that another program wrote, found without reading them."""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypt_dist.checkpoint import ITEM_BYTES
from mypt_dist.config import read_json
from mypt_dist.config.names import is_safe_name
from mypt_dist.config.strict_json import parse_json
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.interchange.hf.shards import INDEX

MAX_HEADER = 100 << 20
"""Bytes; the limit of the safetensors library itself."""
WEIGHT_TYPES = ("F32", "BF16", "F16")
_LENGTH = struct.Struct("<Q")
_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")
"""What older versions of transformers wrote besides weights: masks and tables that follow from the sizes."""


@dataclass(frozen=True, slots=True)
class ForeignTensor:
    """A tensor in a file, not yet read."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte in the file."""

    @property
    def bytes(self) -> int:
        """Size."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def read(self) -> bytearray:
        """All of it. Raises OSError, also where the file was cut short meanwhile."""
        content = bytearray(self.bytes)
        with self.file.open("rb") as file:
            file.seek(self.begin)
            if file.readinto(content) != len(content):
                raise OSError(f"{self.file} is shorter than when its header was read")
        return content


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model: ``path`` itself, or those of the folder. Raises `ConfigError`."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path} is no safetensors file: other formats can hold code that runs when it is read")
        return [path]
    if not path.is_dir():
        raise ConfigError(f"there is no {path}: name a folder with config.json and safetensors files")
    if (path / INDEX).is_file():
        return [path / name for name in _listed(path / INDEX)]
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise ConfigError(f"{path} has {len(found)} safetensors files and no {INDEX} that says which belong together")
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
    if pickled:
        raise ConfigError(
            f"{path} has its weights in {pickled[0]}, a format that runs code when it is read: load it where it may do "
            "that and save it with save_pretrained, which writes safetensors"
        )
    raise ConfigError(f"{path} has no safetensors file")


def foreign_tensors(files: list[Path]) -> dict[str, ForeignTensor]:
    """Name -> tensor of all files, without the buffers of older versions. Raises `CheckpointError`."""
    found: dict[str, ForeignTensor] = {}
    for file in files:
        for name, tensor in _tensors_of(file).items():
            if name in found:
                raise CheckpointError(f"{name} is in {found[name].file.name} and in {file.name}")
            if not _BUFFERS.search(name):
                found[name] = tensor
    return found


def _listed(index: Path) -> list[str]:
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ConfigError(f"{index} has no weight_map")
    names = sorted({str(name) for name in places.values()})
    unsafe = [name for name in names if not is_safe_name(name) or not name.endswith(".safetensors")]
    if unsafe:
        raise ConfigError(f"{index} names {unsafe[0]!r}, which is no safetensors file beside it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ConfigError(f"{index} names {missing[0]}, which is not there: the model is not complete")
    return names


def _tensors_of(path: Path) -> dict[str, ForeignTensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH.size)
            length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else MAX_HEADER + 1
            if length > min(MAX_HEADER, size - _LENGTH.size):
                raise CheckpointError(f"{path} is no safetensors file, or was cut short: its header does not fit")
            header = parse_json(file.read(length).decode(), f"the header of {path}")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header is no object")
    begin = _LENGTH.size + length
    return {name: _tensor(path, name, entry, begin, size) for name, entry in header.items() if name != "__metadata__"}


def _tensor(path: Path, name: str, entry: Mapping[str, Any], data: int, size: int) -> ForeignTensor:
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
        wrong = min(shape, default=0) < 0 or not 0 <= begin <= end <= size - data
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: the entry of {name} is malformed: {json.dumps(entry)[:200]}") from None
    if dtype in ITEM_BYTES and not wrong:
        wrong = end - begin != math.prod(shape) * ITEM_BYTES[dtype]
    if wrong:
        raise CheckpointError(f"{path}: {name} does not lie in it as its header says; the file may be cut short")
    if dtype not in WEIGHT_TYPES and not _BUFFERS.search(name):
        raise CheckpointError(
            f"{path}: {name} is of type {dtype}, a model is filled from {', '.join(WEIGHT_TYPES)}; a quantised one "
            "must be saved unquantised first"
        )
    return ForeignTensor(name, path, dtype, shape, data + begin)
