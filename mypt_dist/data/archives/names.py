"""Which names may the members of an archive have?"""

import unicodedata

from mypt_dist.config.names import is_reserved_on_windows
from mypt_dist.data.archives.limits import RefusedError

MAX_PART_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 16
_FORBIDDEN = set('\\:*?"<>|')
"""A separator, a drive or a stream on Windows, and what no file can be called there."""


def checked_parts(name: str) -> tuple[str, ...]:
    """``a/b.txt`` -> ``("a", "b.txt")``, in composed Unicode (NFC); nothing for ``./``. Raises `RefusedError`."""
    _check_text(name)
    if name.startswith("/"):
        raise RefusedError(f"{_shown(name)} is an absolute path")
    parts = tuple(part for part in unicodedata.normalize("NFC", name).removesuffix("/").split("/") if part != ".")
    for part in parts:
        _check_part(part, name)
    if len(parts) > MAX_DEPTH:
        raise RefusedError(f"{_shown(name)} is {len(parts)} folders deep, at most {MAX_DEPTH} are accepted")
    return parts


def folded(path: str) -> str:
    """What two paths have in common that are one on a disk that ignores case."""
    return unicodedata.normalize("NFC", path.casefold())


def _check_text(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise RefusedError(f"the name {_shown(name)} is not UTF-8") from None
    if size > MAX_PATH_BYTES:
        raise RefusedError(f"{_shown(name)} has {size:,} bytes, at most {MAX_PATH_BYTES:,} are accepted")
    if not name:
        raise RefusedError("a member has no name")
    if not name.isprintable():
        raise RefusedError(f"the name {_shown(name)} holds a control character or one that does not show")


def _check_part(part: str, name: str) -> None:
    if part == "..":
        raise RefusedError(f"{_shown(name)} leads out of its folder")
    if not part:
        raise RefusedError(f"{_shown(name)} has a part without a name")
    if len(part.encode()) > MAX_PART_BYTES:
        raise RefusedError(f"a part of {_shown(name)} is longer than {MAX_PART_BYTES} bytes")
    if bad := sorted(_FORBIDDEN & set(part)):
        raise RefusedError(f"{_shown(name)} holds {bad[0]!r}, which means something else on other systems")
    if part[-1] in ". " or is_reserved_on_windows(part):
        raise RefusedError(f"{_shown(name)} cannot be a file on every system: {part!r} is reserved")


def _shown(name: str) -> str:
    text = ascii(name) if not name.isprintable() else repr(name)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"
