"""Shipped run files, presets and launch files, in a checkout and in an installed wheel alike.

The folders `configs/` and `launch/` at the top of the repository are the only source. The wheel
carries copies of them under `mypt_dist/presets/` (see `force-include` in pyproject.toml).
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mypt_dist.config.problems import near_miss
from mypt_dist.config.strict_json import read_json
from mypt_dist.errors import ConfigError

Kind: TypeAlias = Literal["configs", "configs/sources", "launch"]
"""``configs`` are run files and presets, ``configs/sources`` what `mypt data fetch` reads."""


def folder(kind: Kind) -> Path:
    """Where the shipped files of a kind are. A checkout wins over the wheel's copy, which may be stale."""
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / kind
    return Path(str(files("mypt_dist") / "presets" / kind))


def names(kind: Kind) -> list[str]:
    """Every shipped file of a kind without its suffix, such as ``presets/small``."""
    root = folder(kind)
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix in (".json", ".yaml"))
    return sorted(path.with_suffix("").as_posix() for path in found if path.parts[0] not in ("schema", "sources"))


def describe() -> list[dict[str, Any]]:
    """Name, description and parameter count of every shipped preset and run file."""
    entries = []
    for name in names("configs"):
        about = read_json(find("configs", name)).get("about", {})
        entry = {"name": Path(name).name, "file": name, "parameters": about.get("parameters")}
        entries.append({**entry, "description": about.get("description", "")})
    return entries


def find(kind: Kind, name: str, beside: Path | None = None) -> Path:
    """The file a user names: a path, or a shipped one, with or without its folder and suffix.

    Raises `ConfigError` with the nearest shipped name.
    """
    for given in (Path(name), *([beside / name] if beside else [])):
        if given.is_file():
            return given
    shipped = {path.with_suffix("").name: path for path in map(Path, names(kind))}
    wanted = Path(name).with_suffix("") if Path(name).suffix in (".json", ".yaml") else Path(name)
    match = wanted if wanted in shipped.values() else shipped.get(str(wanted))
    if match is not None:
        return next(folder(kind).glob(f"{match}.*"))
    known = f"(shipped: {', '.join(sorted(shipped))})" if kind == "configs/sources" else "(see: mypt presets)"
    what = "a shipped sources file" if kind == "configs/sources" else "a preset"
    raise ConfigError(f"{name!r} is neither a file nor {what}{near_miss(wanted.name, shipped)} {known}")
