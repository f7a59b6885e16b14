"""Where is the description of a dataset that another program wrote, whose folder must stay as it is?"""

import hashlib
import os
from pathlib import Path


def user_cache() -> Path:
    """Where this user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mypt-dist"


def index_places(folder: Path) -> tuple[Path, Path]:
    """Beside the folder, where every machine that sees the data sees it too; else in the user's cache."""
    whole = folder.resolve()
    key = hashlib.sha256(os.fsencode(whole)).hexdigest()[:32]
    return whole.parent / f".{whole.name}.dataset.json", user_cache() / "datasets" / f"{key}.json"


def find_index(folder: Path) -> Path | None:
    """The description that `mypt data adopt` wrote of ``folder``, if any."""
    return next((place for place in index_places(folder) if place.is_file()), None)
