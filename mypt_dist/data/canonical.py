"""One hash for equal content of a dataset's manifest, however its JSON is spelled."""

import hashlib
import json
import math
from typing import Any

_PLACE = '"crc32":NaN'
"""Where checksums stood. A text with these characters is spelled with backslashes."""


def canonical_hash(content: dict[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON of ``content``.

    Checksums of blocks, which are digits, are hashed as they stand: to look for characters to escape in megabytes of
    them would take longer than all the rest.
    """
    crcs: list[str] = []
    if "splits" in content:
        content = {**content, "splits": _without_crcs(content["splits"], crcs)}
    spelled = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    first, *others = spelled.split(_PLACE)
    digest = hashlib.sha256(first.encode("ascii"))
    for crc, other in zip(crcs, others, strict=True):
        digest.update(f'"crc32":"{crc}"'.encode("ascii"))
        digest.update(other.encode("ascii"))
    return digest.hexdigest()


def _without_crcs(value: Any, crcs: list[str]) -> Any:
    """The same with NaN for checksums, which are added to ``crcs`` in the order of the canonical JSON."""
    if isinstance(value, dict):
        return {key: _without_crcs(_aside(key, item, crcs), crcs) for key, item in sorted(value.items())}
    return [_without_crcs(item, crcs) for item in value] if isinstance(value, list | tuple) else value


def _aside(key: str, item: Any, crcs: list[str]) -> Any:
    if key != "crc32" or item is None:
        return item
    crcs.append(item)
    return math.nan
