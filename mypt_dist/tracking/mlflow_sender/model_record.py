"""What is told to MLflow of a model that leaves the project, and under what name it is then known there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model as a folder of files."""

    name: str
    """Of the registered model; each record becomes one of its versions."""
    kind: str
    """What the folder is, such as ``transformers``."""
    folder: Path
    params: Mapping[str, str]
    """What it is: sizes, class, element type."""
    tags: Mapping[str, str]
    """Where it came from."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version in the registry of models."""

    name: str
    version: str
    model_id: str
    """Of the logged model that holds the files."""

    @property
    def uri(self) -> str:
        """By which MLflow finds it."""
        return f"models:/{self.name}/{self.version}"
