"""What is in a dataset? ``dataset.json``: its shards, its tokenizer, where it came from, and a hash of all that."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_serializer,
)

from mypt_dist.config import Config, read_json, validate
from mypt_dist.data.blocks import DIGITS, blocks_of
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import END_OF_TEXT, Tokenizer, fingerprint_of, load_tokenizer

FILE = "dataset.json"
FORMAT = 1
SPLITS = ("train", "val")
HEADER_BYTES = 64
"""What stands before the tokens of a shard: a multiple of every token size and of a cache line."""
HINT = "make one with: mypt data prepare INPUT... --tokenizer gpt2 --out"


Dtype = Literal["uint16", "uint32"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, strict=True)]


def _spelled(text: str) -> str:
    """``text``, if `bytes.hex` spells it so. Megabytes of it: a pattern would take longer than all the rest."""
    try:
        right = bytes.fromhex(text).hex() == text and len(text) % DIGITS == 0 and text
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"must be {DIGITS} hexadecimal digits for each block")
    return text


Crcs = Annotated[
    str, AfterValidator(_spelled), WithJsonSchema({"type": "string", "pattern": f"^([0-9a-f]{{{DIGITS}}})+$"})
]


class ShardEntry(Config):
    """One shard, as the manifest lists it."""

    file: Annotated[str, Field(pattern=r"^(train|val)/shard-[0-9]{5,9}\.bin$")]
    """Path inside the dataset's folder."""
    bytes: Count
    """Size of the file, header included."""
    tokens: Annotated[int, Field(gt=0, strict=True)]
    sha256: Sha256
    """Of the whole file, header included."""
    crc32: Crcs | None = None
    """Of each block of 1 MiB, one after the other. Datasets prepared before there were any have none."""

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # An older dataset is spelled as it always was: its hash says so.
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if value is not None}


class TokenizerRecord(Config):
    """The tokenizer a dataset was written with, whole."""

    kind: StrictStr
    fingerprint: Sha256
    state: dict[str, Any]


class SplitEntry(Config):
    """One half of a dataset: its shards, in order, form one stream of tokens."""

    tokens: Count
    documents: Count
    bytes: Count
    """UTF-8 text the tokens stand for."""
    shards: tuple[ShardEntry, ...]


class Splits(Config):
    """What to learn from, and what to measure on."""

    train: SplitEntry
    val: SplitEntry


class SourceEntry(Config):
    """One input as the user named it, and what came of it."""

    path: StrictStr
    files: Count
    documents: Count
    bytes: Count
    """UTF-8 text that was taken from it."""


class Counts(Config):
    """What was read, and what was left out and why."""

    files: Count = 0
    documents: Count = 0
    """Written. Where the tail of a document is held out, both parts count."""
    empty: Count = 0
    """Nothing but white space."""
    duplicates: Count = 0
    bad_utf8: Count = 0
    bad_json: Count = 0
    """Lines that are not a JSON object with a text in the chosen field."""
    oversized: Count = 0
    """Lines of JSON too long to be read with bounded memory."""
    unreadable_files: Count = 0


class DatasetManifest(Config):
    """``dataset.json``. Only `create` and `read` make one, so that its hashes are always true."""

    format: Literal[1]
    fingerprint: Sha256
    """Identity of the content: format, tokenizer and the hashes of all shards."""
    tokenizer: TokenizerRecord
    vocab_size: Annotated[int, Field(gt=0, strict=True)]
    dtype: Dtype
    eot_id: Count
    splits: Splits
    sources: tuple[SourceEntry, ...]
    counts: Counts
    settings: dict[StrictStr, bool | StrictInt | float | StrictStr | None]
    """Those settings of the preparation that decided its content."""
    sha256: Sha256
    """Of the canonical JSON of everything else in this file."""

    @classmethod
    def create(
        cls,
        tokenizer: Tokenizer,
        splits: Splits,
        sources: tuple[SourceEntry, ...],
        counts: Counts,
        settings: dict[str, Any],
    ) -> "DatasetManifest":
        """The manifest of shards that were just written."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": _content_hash(tokenizer.fingerprint, splits),
            "tokenizer": {
                "kind": tokenizer.kind,
                "fingerprint": tokenizer.fingerprint,
                "state": tokenizer.state(),
            },
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype_for(tokenizer.vocab_size),
            "eot_id": tokenizer.eot_id,
            "splits": splits.model_dump(mode="json"),
            "sources": [source.model_dump(mode="json") for source in sources],
            "counts": counts.model_dump(mode="json"),
            "settings": settings,
        }
        return cls.model_validate({**content, "sha256": _canonical_hash(content)})

    @classmethod
    def read(cls, folder: Path) -> "DatasetManifest":
        """The manifest of the dataset in ``folder``. Reads ``dataset.json`` and nothing else.

        Raises `ConfigError` where there is no dataset, `DataError` where the file was damaged, edited or contradicts
        itself.
        """
        path = folder / FILE
        try:
            if not folder.is_dir():
                raise ConfigError(f"no dataset at {folder}: there is no such folder; {HINT} {folder}")
            if not path.exists():
                raise ConfigError(f"no dataset at {folder}: it holds no {FILE}; {HINT} {folder}")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        try:
            raw = read_json(path)
            _check_format(raw, path)
            manifest = validate(cls, raw, str(path))
        except ConfigError as error:
            raise DataError(str(error)) from None
        manifest._check(path, raw)
        return manifest

    def to_bytes(self) -> bytes:
        """The one and only spelling of this manifest on disk."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=True) + "\n").encode("ascii")

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer the dataset was written with. Raises `DataError` where it cannot be built."""
        try:
            return load_tokenizer(self.tokenizer.state)
        except ConfigError as error:
            raise DataError(f"the tokenizer in {FILE} cannot be used: {error}") from None

    def split(self, name: str) -> SplitEntry:
        """The entry of ``train`` or ``val``."""
        return _of(self.splits, name)

    def _check(self, path: Path, raw: dict[str, Any]) -> None:
        content = {key: value for key, value in raw.items() if key != "sha256"}
        if self.sha256 != _canonical_hash(content):
            raise DataError(
                f"{path} was damaged or edited: its content has sha256 {_canonical_hash(content)}, "
                f"it says {self.sha256}"
            )
        problems = self._contradictions()
        if problems:
            raise DataError("\n".join([f"{path} contradicts itself:", *problems]))

    def _contradictions(self) -> list[str]:
        """Only a faulty writer makes these: the hash has already ruled out damage."""
        state = self.tokenizer.state
        specials = state.get("specials", {})
        expected = {
            "tokenizer.fingerprint": (self.tokenizer.fingerprint, fingerprint_of(state)),
            "tokenizer.kind": (self.tokenizer.kind, state.get("kind")),
            "vocab_size": (self.vocab_size, state.get("base_vocab_size", 0) + len(specials)),
            "eot_id": (self.eot_id, specials.get(END_OF_TEXT)),
            "dtype": (self.dtype, dtype_for(self.vocab_size)),
            "fingerprint": (self.fingerprint, _content_hash(self.tokenizer.fingerprint, self.splits)),
        }
        for name in SPLITS:
            split = self.split(name)
            expected[f"splits.{name}.tokens"] = (split.tokens, sum(shard.tokens for shard in split.shards))
            for i, shard in enumerate(split.shards):
                size = HEADER_BYTES + shard.tokens * np.dtype(self.dtype).itemsize
                expected[f"splits.{name}.shards.{i}.bytes"] = (shard.bytes, size)
                expected[f"splits.{name}.shards.{i}.file"] = (shard.file, shard_name(name, i))
                blocks = len(shard.crc32) // DIGITS if shard.crc32 is not None else blocks_of(size)
                expected[f"blocks of splits.{name}.shards.{i}.crc32"] = (blocks, blocks_of(size))
        return [f"  {key} is {said!r}, should be {right!r}" for key, (said, right) in expected.items() if said != right]


def dtype_for(vocab_size: int) -> Dtype:
    """The smallest type that holds every id of the vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def shard_name(split: str, index: int) -> str:
    """Path of a shard inside the dataset's folder."""
    return f"{split}/shard-{index:05d}.bin"


def _check_format(raw: Any, path: Path) -> None:
    if not isinstance(raw, dict):
        raise DataError(f"{path} must hold an object, got {type(raw).__name__}")
    if raw.get("format") != FORMAT:
        raise DataError(f"{path} has format {raw.get('format')!r}, this version of mypt-dist reads {FORMAT}")


def _of(splits: Splits, name: str) -> SplitEntry:
    assert name in SPLITS, name
    found: SplitEntry = getattr(splits, name)
    return found


def _content_hash(tokenizer: str, splits: Splits) -> str:
    shards = {name: [shard.sha256 for shard in _of(splits, name).shards] for name in SPLITS}
    return _canonical_hash({"format": FORMAT, "tokenizer": tokenizer, "shards": shards})


def _canonical_hash(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
