"""What docker/compose.yaml says of its services, to start them without Docker. Every variable has its default."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from containers import Options, workspace
from images import ROOT

FILE = ROOT / "docker/compose.yaml"
EXAMPLE = ROOT / "docker/.env.example"


@dataclass(frozen=True)
class Service:
    command: list[str]
    options: Options
    health: list[str]


def services(folder: Path, *names: str) -> list[Service]:
    """Those of that name, with volumes in ``folder``."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text())
    content = yaml.safe_load(text)["services"]
    return [_service(content[name], folder) for name in names]


def _service(content: Mapping[str, Any], folder: Path) -> Service:
    assert content["read_only"], "as all containers here are"
    command = content["command"]
    options = Options(
        volumes=dict(_volume(text, folder) for text in content["volumes"]),
        environment=content["environment"],
        tmpfs=content["tmpfs"],
    )
    health = content.get("healthcheck", {}).get("test", [])
    return Service(shlex.split(command) if isinstance(command, str) else command, options, health)


def _volume(text: str, folder: Path) -> tuple[str, Path]:
    """Where it is mounted, and an empty one."""
    name, path, *_ = text.split(":")
    place = folder / Path(name).name
    if not place.exists():
        place.mkdir()
        workspace(place)
    return path, place
