"""What a rank may know about the others. `Engine` is the one real implementation."""

from typing import Protocol, TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


class World(Protocol):
    """The ranks of a run. Values travel as JSON, so that no rank ever unpickles what another sent."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, value: JSON) -> list[JSON]:
        """Every rank's value, in rank order, on every rank. A collective, hence also a barrier."""
        ...


class Solo:
    """A world of one process: tools, notebooks and unit tests."""

    rank = 0
    size = 1

    def all_gather(self, value: JSON) -> list[JSON]:
        return [value]
