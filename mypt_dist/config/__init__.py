"""How a run is described: frozen schemas, JSON and YAML files, presets, dotted overrides."""

from mypt_dist.config.base import Config
from mypt_dist.config.load import load_mapping, validate, with_overrides
from mypt_dist.config.names import SafeName, SafePath, Sha256, inside
from mypt_dist.config.registry import Component, Registry
from mypt_dist.config.strict_json import read_json

__all__ = [
    "Component",
    "Config",
    "Registry",
    "SafeName",
    "SafePath",
    "Sha256",
    "inside",
    "load_mapping",
    "read_json",
    "validate",
    "with_overrides",
]
