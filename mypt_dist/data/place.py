"""Where is a dataset? In a folder, or behind a URL that fsspec knows."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from mypt_dist.config.names import checked_path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def place_of(text: str) -> Path | str:
    """What a user means by ``text``. Raises ValueError for a URL that leads through another, or to no place at all."""
    if "://" not in text:
        return checked_path(Path(text))
    checked_path(Path(text))
    if not _URL.fullmatch(text):
        raise ValueError(
            "a URL has the form scheme://where, for example s3://bucket/data; chains (::) are not followed"
        )
    return text.rstrip("/")


def _place(value: Any) -> Path | str:
    if isinstance(value, Path):
        return checked_path(value)
    if not isinstance(value, str):
        raise ValueError("must be the path of a folder, or a URL")  # noqa: TRY004 - pydantic wants this one
    return place_of(value)


DatasetPlace = Annotated[Path | str, PlainValidator(_place), WithJsonSchema({"type": "string", "format": "path"})]
"""A `Path` is a folder, text is a URL."""
