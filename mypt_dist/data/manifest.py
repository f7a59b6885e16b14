"""What is in a dataset? ``dataset.json``: its shards, its tokenizer, where it came from, and a hash of all that."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, StrictStr, WithJsonSchema

from mypt_dist.config import Config, Sha256, validate
from mypt_dist.config.strict_json import parse_json, read_text
from mypt_dist.data.blocks import DIGITS, blocks_of
from mypt_dist.data.companions import COMPANIONS, Companion
from mypt_dist.data.entries import ChatEntry, CompanionEntry, Count, Lineage, PathInside, Settings, SourceEntry, Sparse
from mypt_dist.data.in_place import find_index
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import END_OF_TEXT, Tokenizer, fingerprint_of, load_tokenizer

FILE = "dataset.json"
FORMAT = 2
FORMATS = (1, 2)
"""Those that are read. 1 has no companions, no lineage and nothing in place, and is spelled the same otherwise."""
SPLITS = ("train", "val")
HEADER_BYTES = 64
"""What stands before the tokens of a shard: a multiple of every token size and of a cache line."""
HINT = "make one with: mypt data prepare INPUT... --tokenizer gpt2 --out"
FOREIGN_HINT = "What another program wrote is read where it lies after: mypt data adopt"

Dtype = Literal["uint16", "uint32"]


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


class ShardEntry(Sparse):
    """One shard, as the manifest lists it."""

    file: PathInside
    """Path inside the dataset's folder."""
    bytes: Count
    """Size of the file, header included."""
    tokens: Annotated[int, Field(gt=0, strict=True)]
    sha256: Sha256
    """Of the whole file, header included."""
    crc32: Crcs | None = None
    """Of each block of 1 MiB, one after the other. Datasets prepared before there were any have none."""
    offset: Count | None = None
    """Bytes before the tokens of a file that is read in place; null: it is a shard of ours, with its header."""
    companions: dict[Companion, CompanionEntry] | None = None
    """What stands beside the tokens, such as a loss mask."""

    @property
    def begin(self) -> int:
        """Bytes before the first token."""
        return HEADER_BYTES if self.offset is None else self.offset


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


class Counts(Sparse):
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
    no_text: Count | None = None
    """Rows and lines of tables without the column of the text, or with nothing in it."""
    filtered: dict[StrictStr, Count] | None = None
    """Documents that a filter dropped, by its type."""

    def left_out(self) -> dict[str, int]:
        """How many documents and files are not there, by reason; without reasons that no one has."""
        counts = self.model_dump(exclude={"files", "documents", "filtered"}) | (self.filtered or {})
        return {reason: count for reason, count in counts.items() if count}


class DatasetManifest(Sparse):
    """``dataset.json``. Only `create`, `with_origin` and `read` make one, so that its hashes are always true."""

    format: Literal[1, 2]
    fingerprint: Sha256
    """Identity of the content: format, tokenizer and the hashes of all shards."""
    tokenizer: TokenizerRecord
    vocab_size: Annotated[int, Field(gt=0, strict=True)]
    dtype: Dtype
    eot_id: Count
    splits: Splits
    sources: tuple[SourceEntry, ...]
    counts: Counts
    settings: Settings
    """Those settings of the preparation that decided its content."""
    lineage: Lineage | None = None
    """Null in format 1: `prepare` made it."""
    in_place: StrictStr | None = None
    """The format of the files of another program that are read where they lie; null: the shards are ours."""
    row_length: Annotated[int, Field(ge=2, strict=True)] | None = None
    """Tokens of a row, of which every shard has a whole number: a sample is one row, and ``model.context`` one less.
    Null: windows of any length are cut anywhere."""
    conversations: ChatEntry | None = None
    """Of a dataset that was made of conversations."""
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
            "fingerprint": _content_hash(tokenizer.fingerprint, splits, dtype_for(tokenizer.vocab_size)),
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

    def with_origin(self, lineage: Lineage, *, in_place: str | None = None, dtype: Dtype | None = None) -> Self:
        """The same dataset, and where it came from. ``dtype``: of tokens that are read ``in_place``."""
        content = self.model_dump(mode="json", exclude={"sha256"})
        content |= {"format": FORMAT, "lineage": lineage.model_dump(mode="json")}
        if in_place is not None:
            content |= {"in_place": in_place, "dtype": dtype}
            fingerprint = _content_hash(self.tokenizer.fingerprint, self.splits, content["dtype"], self.row_length)
            content["fingerprint"] = fingerprint
        return type(self).model_validate({**content, "sha256": _canonical_hash(content)})

    def with_rows(self, row_length: int, conversations: ChatEntry | None) -> Self:
        """The same tokens, in rows that stay whole."""
        content = self.model_dump(mode="json", exclude={"sha256"})
        fingerprint = _content_hash(self.tokenizer.fingerprint, self.splits, self.dtype, row_length)
        content |= {"format": FORMAT, "row_length": row_length, "fingerprint": fingerprint}
        if conversations is not None:
            content["conversations"] = conversations.model_dump(mode="json")
        return type(self).model_validate({**content, "sha256": _canonical_hash(content)})

    @classmethod
    def read(cls, folder: Path) -> "DatasetManifest":
        """The manifest of the dataset in ``folder``. Reads ``dataset.json``, or the index that `adopt` made.

        Raises `ConfigError` where there is no dataset, `DataError` where the file was damaged, edited or contradicts
        itself.
        """
        path = cls.path_in(folder)
        try:
            text = read_text(path)
        except ConfigError as error:
            raise DataError(str(error)) from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> "DatasetManifest":
        """The manifest that ``text`` spells. Raises `DataError` naming ``where``, as `read` does."""
        try:
            raw = parse_json(text, where)
            _check_format(raw, where)
            manifest = validate(cls, raw, where)
        except ConfigError as error:
            raise DataError(str(error)) from None
        manifest._check(where, raw)
        return manifest

    @staticmethod
    def path_in(folder: Path) -> Path:
        """The file that describes the dataset in ``folder``. Raises `ConfigError` where there is none."""
        path = folder / FILE
        try:
            if not folder.is_dir():
                raise ConfigError(f"no dataset at {folder}: there is no such folder; {HINT} {folder}")
            if not path.exists():
                index = find_index(folder)
                if index is None:
                    raise ConfigError(
                        f"no dataset at {folder}: it holds no {FILE}; {HINT} {folder}. {FOREIGN_HINT} {folder}"
                    )
                return index
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        return path

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

    @property
    def companions(self) -> tuple[Companion, ...]:
        """What stands beside the tokens of every shard."""
        first = (*self.splits.train.shards[:1], *self.splits.val.shards[:1])[:1]
        return tuple(kind for shard in first for kind in shard.companions or ())

    def files(self, *splits: str) -> Iterator[ShardEntry | CompanionEntry]:
        """Every file of some splits, or of all."""
        for name in splits or SPLITS:
            for shard in self.split(name).shards:
                yield shard
                yield from (shard.companions or {}).values()
        yield from self.records(*splits)

    def records(self, *splits: str) -> Iterator[CompanionEntry]:
        """The files of what conversations have besides their texts."""
        found = self.conversations.records if self.conversations else {}
        return (entry for name, entry in found.items() if name in (splits or SPLITS))

    def bytes_of(self, *splits: str) -> int:
        """Of all files of some splits."""
        return sum(entry.bytes for entry in self.files(*splits))

    def _check(self, path: str, raw: dict[str, Any]) -> None:
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
            "dtype": (self.dtype, dtype_for(self.vocab_size) if self.in_place is None else self.dtype),
            "fingerprint": (
                self.fingerprint,
                _content_hash(self.tokenizer.fingerprint, self.splits, self.dtype, self.row_length),
            ),
        }
        for name in SPLITS:
            split = self.split(name)
            expected[f"splits.{name}.tokens"] = (split.tokens, sum(shard.tokens for shard in split.shards))
            for i, shard in enumerate(split.shards):
                expected |= {f"splits.{name}.shards.{i}.{key}": both for key, both in self._of_shard(shard, name, i)}
        return [f"  {key} is {said!r}, should be {right!r}" for key, (said, right) in expected.items() if said != right]

    def _of_shard(self, shard: ShardEntry, split: str, index: int) -> Iterator[tuple[str, tuple[object, object]]]:
        size = shard.begin + shard.tokens * np.dtype(self.dtype).itemsize
        yield "bytes", (shard.bytes, size)
        yield "tokens outside of rows", (shard.tokens % (self.row_length or 1), 0)
        if self.in_place is None:
            yield "file", (shard.file, shard_name(split, index))
            yield "offset", (shard.offset, None)
        blocks = len(shard.crc32) // DIGITS if shard.crc32 is not None else blocks_of(size)
        yield "crc32 (blocks)", (blocks, blocks_of(size))
        yield "companions", (sorted(shard.companions or ()), sorted(self.companions))
        for kind, entry in (shard.companions or {}).items():
            right = shard.tokens * COMPANIONS[kind].itemsize
            yield f"companions.{kind}.bytes", (entry.bytes, right)
            yield f"companions.{kind}.file", (entry.file, companion_name(split, index, kind))
            yield f"companions.{kind}.crc32 (blocks)", (len(entry.crc32) // DIGITS, blocks_of(right))


def companion_shards(entries: Sequence[ShardEntry], kind: Companion) -> list[ShardEntry]:
    """What stands beside the shards ``entries``, as shards without a header."""
    return [
        ShardEntry(
            file=beside.file,
            bytes=beside.bytes,
            tokens=entry.tokens,
            sha256=beside.sha256,
            crc32=beside.crc32,
            offset=0,
        )
        for entry in entries
        for beside in [(entry.companions or {})[kind]]
    ]


def dtype_for(vocab_size: int) -> Dtype:
    """The smallest type that holds every id of the vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def shard_name(split: str, index: int) -> str:
    """Path of a shard inside the dataset's folder."""
    return f"{split}/shard-{index:05d}.bin"


def companion_name(split: str, index: int, kind: Companion) -> str:
    """Path of a shard's companion inside the dataset's folder."""
    return f"{split}/shard-{index:05d}.{kind}.bin"


def _check_format(raw: Any, path: str) -> None:
    if not isinstance(raw, dict):
        raise DataError(f"{path} must hold an object, got {type(raw).__name__}")
    if raw.get("format") not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise DataError(f"{path} has format {raw.get('format')!r}, this version of mypt-dist reads {known}")


def _of(splits: Splits, name: str) -> SplitEntry:
    assert name in SPLITS, name
    found: SplitEntry = getattr(splits, name)
    return found


def _content_hash(tokenizer: str, splits: Splits, dtype: Dtype, row_length: int | None = None) -> str:
    """What decides the samples, and nothing else: the same tokens in shards of ours have one hash in every format."""
    entries = {name: _of(splits, name).shards for name in SPLITS}
    content: dict[str, Any] = {
        "format": 1,
        "tokenizer": tokenizer,
        "shards": {name: [shard.sha256 for shard in shards] for name, shards in entries.items()},
    }
    companions = {
        name: [{kind: entry.sha256 for kind, entry in shard.companions.items()} for shard in shards if shard.companions]
        for name, shards in entries.items()
    }
    if any(companions.values()):
        content["companions"] = companions
    if row_length is not None:
        content["row_length"] = row_length
    offsets = {name: [shard.offset for shard in shards] for name, shards in entries.items()}
    if any(offset is not None for found in offsets.values() for offset in found):
        # Files without a header of ours do not say how their bytes are to be read.
        content["in_place"] = {"dtype": dtype, "offsets": offsets}
    return _canonical_hash(content)


def _canonical_hash(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
