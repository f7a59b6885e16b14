"""All that a check may know: the real configuration, how it is to be launched, and what was seen around it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.place import DatasetPlace
from mypt_dist.launch.plan import Place

if TYPE_CHECKING:
    from mypt_dist.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class SourceSight:
    """A dataset as it lies on the disk."""

    path: DatasetPlace
    manifest: DatasetManifest | None = None
    missing: str | None = None
    """Why there is no dataset."""
    damage: str | None = None
    """What is wrong with the one that is there."""
    highest_id: int | None = None
    """Of the tokens that were looked at."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest checkpoint that lies in the run's folder already."""

    step: int
    run: Mapping[str, Any]
    """Its resolved run file."""
    data: Mapping[str, Any]
    """What its manifest says of the data."""
    bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was seen on this machine. Null: it could not be told, and nothing is said about it."""

    environ: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, SourceSight] = field(default_factory=dict)
    unwritable: str | None = None
    """Why the run's folder cannot be written."""
    lock_holder: str | None = None
    """The run that trains in the folder now."""
    standing: Standing | None = None
    free_bytes: int | None = None
    """On the disk of the run's folder."""
    checkpoint_bytes: int | None = None
    """Of one checkpoint: fp32 weights and the optimizer's state."""
    optimizer_refusal: str | None = None
    """Why the optimizer does not want this model."""
    open_files: int | None = None
    """How many files a process may have open."""
    port_taken: str | None = None
    """Why the port of the launch cannot be listened on here."""
    unresolved: str | None = None
    """Why the address of node 0 leads nowhere."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run, as it is meant for the cluster."""

    config: "RunConfig"
    target: str
    place: Place
    around: Surroundings
    allowed: tuple[str, ...] = ()
    """Settings that may differ from the checkpoint's."""

    @property
    def ranks(self) -> int:
        return self.place.ranks or 1

    @property
    def nodes(self) -> int:
        return self.place.nodes or 1

    @property
    def vocabulary(self) -> int | None:
        """Ids of the datasets' tokenizer, if there is a dataset."""
        return next((s.manifest.vocab_size for s in self.around.sources.values() if s.manifest), None)
