"""What a rank asks of its writer and what that answers: one JSON object a line each way."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, TypeAdapter

from mypt_dist.checkpoint.receipts import Receipt
from mypt_dist.checkpoint.retention import Retention
from mypt_dist.checkpoint.segments import Dtype
from mypt_dist.config import Config
from mypt_dist.config.strict_json import parse_json


class Fence(Config):
    """The run lock under which a commit is allowed."""

    folder: Path
    token: str


class Setup(Config):
    """What a writer must know before its first order."""

    parent: int = 0
    """Process id of the rank; without it the writer ends."""
    descriptor: int = -1
    """Of the memory that both share."""
    root: Path
    """Where the run's checkpoints are."""
    rank: NonNegativeInt
    size: PositiveInt
    retention: Retention = Retention()
    fence: Fence | None = None


class Piece(Config):
    """A segment whose bytes lie in the shared memory from ``offset`` on."""

    name: str
    shape: tuple[NonNegativeInt, ...]
    dtype: Dtype
    start: NonNegativeInt
    length: NonNegativeInt
    offset: NonNegativeInt


class Open(Config):
    """Make the folder of an attempt; the answer is its name. Rank 0 alone."""

    do: Literal["open"] = "open"
    step: NonNegativeInt
    bytes: NonNegativeInt
    """Of all ranks' files."""
    files: PositiveInt
    """Number of all ranks' files."""


class Write(Config):
    """Write the rank's share; the answer is its receipt."""

    do: Literal["write"] = "write"
    step: NonNegativeInt
    folder: str
    pieces: tuple[Piece, ...]
    rank_state: dict[str, JsonValue]
    files: dict[str, str]
    """Small files by name, as text."""


class Commit(Config):
    """Make a checkpoint of what all ranks have written. Rank 0 alone."""

    do: Literal["commit"] = "commit"
    step: NonNegativeInt
    folder: str
    receipts: tuple[Receipt, ...]
    description: dict[str, Any]
    """The manifest without files and tensors."""


class Retire(Config):
    """Delete the checkpoints that no rule keeps. Rank 0 alone."""

    do: Literal["retire"] = "retire"


class Discard(Config):
    """Delete an attempt that failed. Rank 0 alone."""

    do: Literal["discard"] = "discard"
    folder: str


Order: TypeAlias = Open | Write | Commit | Retire | Discard

_ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="do")])


def to_line(message: Config) -> bytes:
    """One line. Raises ValueError for a number JSON does not have."""
    return json.dumps(message.model_dump(mode="json"), allow_nan=False).encode() + b"\n"


def parse_order(line: bytes) -> Order:
    """Raises ValueError, `ConfigError`."""
    return _ORDER.validate_python(parse_json(line.decode(), "an order"))
