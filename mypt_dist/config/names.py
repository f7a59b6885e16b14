"""Names that become files or folders: the same on every system, and never a way out of the folder they are put in."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from mypt_dist.errors import ConfigError

PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$"
"""Plain ASCII: no separator, no look-alike of one, no control character, and nothing that a shell takes for an option
or hides."""

_NAME = re.compile(PATTERN.removesuffix("$") + r"\Z")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)
"""Windows opens a device under these names, whatever follows the first dot."""


def is_safe_name(name: str) -> bool:
    """Whether ``name`` may become a file or folder."""
    return _NAME.match(name) is not None and not name.endswith(".") and not is_reserved_on_windows(name)


def is_reserved_on_windows(name: str) -> bool:
    """Whether Windows opens a device under this name."""
    return _RESERVED.match(name) is not None


def _checked_name(name: str) -> str:
    if not is_safe_name(name):
        raise ValueError(f"{name!r} is reserved on Windows or ends in a dot: choose another name")
    return name


SafeName = Annotated[str, Field(pattern=PATTERN), AfterValidator(_checked_name)]
"""Of a run, or of any part of one: 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first."""


def checked_path(path: Path) -> Path:
    """``path``. Raises ValueError for characters that no path should have."""
    text = str(path)
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a character that no path should have")
    return path


SafePath = Annotated[Path, AfterValidator(checked_path)]
"""Any path of the user's own; one with control characters or half characters is a mistake or an attack."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""As hexadecimal digits."""


def inside(root: Path, name: str) -> Path:
    """``root / name``, one step below. Raises `ConfigError` for a name that is not safe.

    A link of this name is followed: who can make links in ``root`` may as well have wanted them.
    """
    if not is_safe_name(name):
        raise ConfigError(
            f"{name!r} cannot be a file or folder: use 1 to 64 letters, digits, dots, dashes and underscores, "
            "a letter or digit first, and no name reserved on Windows"
        )
    return root / name
