"""What a conversation has besides its texts, so that a file of conversations comes back as it was.

The texts stand in the tokens. All the rest, keys that nobody knows included, stands in a record: the JSON value of the
line with its texts taken out. A text that tokens cannot give back, because the tokenizer has no id for some character
or because it was cut, stays in the record.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import StrictBool, StrictInt, StrictStr

from mypt_dist.chat import FormatName, Renderer, read_conversation
from mypt_dist.chat.reading import Found, put_at
from mypt_dist.config import Config, validate
from mypt_dist.config.strict_json import parse_json
from mypt_dist.data.entries import Count
from mypt_dist.errors import ConfigError, DataError

FILE = "conversations.jsonl"
"""In the folder of a split."""


class Record(Config):
    """One conversation, and where its tokens are."""

    number: Count
    """In the order in which conversations were read."""
    format: FormatName
    row: Count
    begin: Count
    """Of its first token in the row."""
    tokens: Count
    cut: StrictBool = False
    """It was longer than a row."""
    kept: dict[StrictStr, StrictStr] = {}
    """Texts that the tokens do not give back, by the number of their part."""
    rest: dict[StrictStr, Any]
    """The JSON value without its texts."""
    line: StrictInt
    file: StrictStr
    """Where it came from."""


def taken_out(value: Mapping[str, Any], found: Found, told: list[str] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """A conversation without its texts, and those that must be kept. ``told``: what its tokens say; None: they are cut.

    A text that was made of other values is in what is left anyway.
    """
    rest, kept = copy.deepcopy(dict(value)), dict[str, str]()
    parts = [part.text for _, part in found.conversation.parts()]
    for number, (text, place) in enumerate(zip(parts, found.places, strict=True)):
        if place is None:
            continue
        put_at(rest, place, "")
        if told is None or told[number] != text:
            kept[str(number)] = text
    return rest, kept


def put_back(record: Record, ids: Any, renderer: Renderer) -> dict[str, Any]:
    """The JSON value of the line that ``record`` and its tokens (n,) were made of. Raises `DataError`."""
    value = copy.deepcopy(record.rest)
    _, found = read_conversation(value, record.format)
    told = [None] * len(found.places) if record.cut else renderer.texts(ids, found.conversation)
    for number, place in enumerate(found.places):
        if place is not None:
            text = record.kept.get(str(number), told[number])
            if text is None:
                raise DataError(
                    f"conversation {record.number} lacks a text: the file of records is not of this dataset"
                )
            put_at(value, place, text)
    return value


def read_records(path: Path) -> Iterator[Record]:
    """The records of a split, in order. Raises `DataError`."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                yield validate(Record, parse_json(line, where), where)
    except ConfigError as error:
        raise DataError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def spelled_record(record: Record) -> bytes:
    """As a line of the file."""
    fields = record.model_dump(mode="json", exclude_defaults=True)
    return (json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
