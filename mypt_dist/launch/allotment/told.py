"""Values that a scheduler told, and which of its variables said so."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from mypt_dist.errors import ConfigError

T = TypeVar("T", int, str)

Scheduler: TypeAlias = Literal["plain", "slurm", "kubeflow", "indexed job", "kubernetes", "skypilot"]
"""Plain: none that can be recognised."""


@dataclass(frozen=True, slots=True)
class Told(Generic[T]):
    """A value and where it is from."""

    value: T
    source: str
    """The name of a variable."""

    def __str__(self) -> str:
        return f"{self.value} ({self.source})"


@dataclass(frozen=True, slots=True)
class Allotment:
    """What one node knows of its job. Null: not told."""

    scheduler: Scheduler = "plain"
    nodes: Told[int] | None = None
    node_rank: Told[int] | None = None
    ranks_per_node: Told[int] | None = None
    """On CPUs as well as on GPUs."""
    gpus_per_node: Told[int] | None = None
    """As many ranks, unless they compute on CPUs."""
    address: Told[str] | None = None
    """Of node 0, as the others reach it."""
    port: Told[int] | None = None

    def lines(self) -> Iterator[str]:
        """All that was told, with its sources."""
        for name in ("nodes", "node rank", "ranks per node", "GPUs per node", "address", "port"):
            told = getattr(self, name.lower().replace(" ", "_"))
            if told is not None:
                yield f"{name} {told}"


def number(environ: Mapping[str, str], *variables: str) -> Told[int] | None:
    """The first of ``variables`` that is set. Raises `ConfigError` if it holds no whole number."""
    for variable in variables:
        text = environ.get(variable, "").strip()
        if text:
            if not text.isdecimal():
                raise ConfigError(f"{variable}={text}: a whole number was expected; give --plain to ignore it")
            return Told(int(text), variable)
    return None


def word(environ: Mapping[str, str], variable: str) -> Told[str] | None:
    """What ``variable`` holds, if it is set."""
    text = environ.get(variable, "").strip()
    return Told(text, variable) if text else None
