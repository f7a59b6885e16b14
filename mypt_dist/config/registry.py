"""Interchangeable parts, chosen by ``type:`` in a run file.

A part is one module that defines one `Component` and registers it. Dropping the module into its
package is enough: `Registry` imports the package's modules when the schema of a run file is built.
Such a module keeps torch out of its top level, so that run files are checked without loading it.
"""

import importlib
import pkgutil
from typing import Annotated, Any, Generic, TypeVar, Union

from pydantic import BeforeValidator, Field

from mypt_dist.config.base import Config


class Component(Config):
    """A config that knows how to build its part. A subclass has ``type: Literal["name"] = "name"``."""

    @classmethod
    def type_name(cls) -> str:
        """What ``type:`` says in a run file."""
        return str(cls.model_fields["type"].default)


C = TypeVar("C", bound=Component)


class Registry(Generic[C]):
    """The parts of one kind that live in one package."""

    def __init__(self, kind: str, package: str) -> None:
        self._kind = kind
        self._package = package
        self._parts: dict[str, type[C]] = {}
        self._discovered = False

    def register(self, part: type[C]) -> type[C]:
        """Class decorator: make ``part`` known under its type name."""
        name = part.type_name()
        if name in self._parts:
            raise ValueError(f"two {self._kind}s are registered as {name!r}")
        self._parts[name] = part
        return part

    def __getitem__(self, name: str) -> type[C]:
        self._discover()
        return self._parts[name]

    def names(self) -> list[str]:
        """Every registered type name, sorted."""
        self._discover()
        return sorted(self._parts)

    def union(self, default: str | None = None) -> Any:
        """The annotation of a schema field that holds one of these parts: the ``default`` where no type is given."""
        parts = [self[name] for name in self.names()]
        if len(parts) == 1:
            return parts[0]

        def completed(value: Any) -> Any:
            return {"type": default, **value} if default and isinstance(value, dict) else value

        choice: Any = Union[tuple(parts)]  # noqa: UP007 - a runtime tuple
        return Annotated[choice, Field(discriminator="type"), BeforeValidator(completed)]

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
