"""JSON as the standard has it: no NaN, no Infinity, no key twice. Python's reader accepts all three.

Nor any number that would become infinite, such as ``1e999``, or whole one of more than 64 bits: what comes after the
file is checked computes with it.
"""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from mypt_dist.errors import ConfigError

MAX_BYTES = 64 << 20
"""Far above any manifest, far below what would hurt: a wrong path must not fill the memory."""


def read_json(path: Path) -> Any:
    """The value in ``path``. Raises `ConfigError` naming the file and what is wrong with it."""
    return parse_json(read_text(path), str(path))


def read_text(path: Path) -> str:
    """UTF-8 text of a file of sensible size. Raises `ConfigError`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes; a description has at most {MAX_BYTES:,}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, a file is needed") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def parse_json(text: str, where: str) -> Any:
    """The value of ``text``. ``where`` names its origin in the message of a `ConfigError`."""
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=unique_keys
        )
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not valid JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{where} is not valid JSON: {reason}") from None


def unique_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of ``pairs``. Raises ValueError where a key stands twice."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return mapping


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is beyond all numbers that can be computed with")
    return value


def _whole(text: str) -> int:
    return check_whole(int(text))


def check_whole(value: int) -> int:
    """``value``. Raises ValueError beyond 64 bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"a whole number of {value.bit_length()} bits: no setting or count has more than 64")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
