"""What stands beside the shards of MyPT: ``dataset_metadata.json`` and ``tokenizer_state.json``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mypt_dist.config import read_json
from mypt_dist.data.foreign.dataset import Chosen, Fact, files_in
from mypt_dist.data.foreign.tokenizer import plain
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import build_tokenizer

METADATA = "dataset_metadata.json"
TOKENIZER_STATE = "tokenizer_state.json"
SPLITS = ("train", "val")
TAGS_HINT = (
    "its tags were numbered in more than one way, so say which: --tokenizer mypt-2025-12, mypt-2026-03 or a JSON file "
    "with a tokenizer that has them"
)
"""For data with tags and no map of their ids."""
TOKEN_SHARD = re.compile(r"shard_(\d{5,})\.bin")


class Metadata:
    """``dataset_metadata.json``; empty where there is none."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METADATA
        self.content: Mapping[str, Any] = read_object(self.path) if self.path.is_file() else {}

    def count(self, *keys: str) -> int | None:
        """The number under the first of ``keys`` that is there. Raises `DataError` for what is no count."""
        key = next((key for key in keys if key in self.content), None)
        if key is None:
            return None
        value = self.content[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DataError(f"{self.path}: {key} is {value!r}, must be a number of 0 or more")
        return value

    def expect(self, found: int, what: str, *keys: str) -> None:
        """Raise `DataError` where ``found`` is not what it says of ``what``; nothing where it says nothing."""
        said = self.count(*keys)
        if said is not None and said != found:
            raise DataError(
                f"{self.path} says {said:,} {what}, there are {found:,}: files are missing, cut short or too many"
            )

    def facts(self, *keys: str) -> dict[str, Fact]:
        """Plain values under ``keys``, for the manifest."""
        return {key: self.content[key] for key in keys if isinstance(self.content.get(key), str | int | float | bool)}

    def files(self) -> tuple[Path, ...]:
        """Those of what stands beside the shards that are there."""
        return tuple(path for path in (self.path, self.path.with_name(TOKENIZER_STATE)) if path.is_file())

    def tokenizer(self) -> Chosen | None:
        """The tokenizer that the dataset names, if it names it whole. Raises `ConfigError` for one that cannot be."""
        state = self.path.parent / TOKENIZER_STATE
        if state.is_file():
            return tokenizer_of_state(read_object(state), state)
        return plain(build_tokenizer("gpt2"), str(self.path)) if self.content.get("tokenization") == "gpt2" else None


def read_object(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file. Raises `ConfigError`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def token_shards(folder: Path) -> tuple[Path, ...]:
    """``shard_00000.bin``, ``shard_00001.bin``, … in ``folder``. Raises `DataError` where one is missing."""
    shards = [path for path in files_in(folder, ".bin") if TOKEN_SHARD.fullmatch(path.name)]
    for number, path in enumerate(shards):
        if path.name != f"shard_{number:05d}.bin":
            raise DataError(f"{folder}/shard_{number:05d}.bin is missing; after it comes {path.name}")
    return tuple(shards)


def mask_of(shard: Path) -> Path:
    """The file of masks beside a shard."""
    return shard.with_name(f"{shard.stem}_mask.bin")


def has_shards(folder: Path) -> bool:
    """Whether there is a first shard in ``folder``."""
    return (folder / "shard_00000.bin").is_file()


def tokenizer_of_state(state: Mapping[str, Any], path: Path) -> Chosen:
    """The tokenizer that MyPT described by ``state``, which stands in ``path``. Raises `ConfigError`."""
    match state.get("token_kind"):
        case "gpt2":
            return plain(build_tokenizer("gpt2"), str(path))
        case "char":
            return plain(build_tokenizer("char", _characters(state.get("chars"), path)), str(path))
        case other:
            raise ConfigError(f"{path}: token_kind is {other!r}, known are 'gpt2' and 'char'")


def _characters(chars: object, path: Path) -> list[str]:
    if not isinstance(chars, list) or not all(isinstance(char, str) and len(char) == 1 for char in chars) or not chars:
        raise ConfigError(f"{path}: chars must be a list of single characters")
    if sorted(set(chars)) != chars:
        raise ConfigError(
            f"{path}: chars must be in the order of their code points, each once, as MyPT wrote them; "
            "in another order the ids would mean other characters"
        )
    return chars
