"""The ``data`` section of a run file: which prepared datasets, in which proportion, in which order."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from mypt_dist.config import Config, SafeName
from mypt_dist.data.order import Shuffle
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.config import CacheConfig
from mypt_dist.data.shard_tokens import Reader
from mypt_dist.data.stream import OnDamage


class SourceConfig(Config):
    """One dataset of a mixture."""

    path: DatasetPlace
    """A folder made by ``mypt data prepare``, or the URL of a copy of one, such as ``s3://bucket/data``."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the samples, relative to the other sources."""
    max_epochs: float | None = Field(default=None, gt=0)
    """Refuse a run that would read this source more often. Null: as often as its share needs."""


SourceName = Annotated[SafeName, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class DataConfig(Config):
    """What is learned from. Either ``path``, or several named ``sources``."""

    path: DatasetPlace | None = None
    """A folder made by ``mypt data prepare``, or the URL of a copy of one, such as ``s3://bucket/data``."""
    sources: dict[SourceName, SourceConfig] = {}
    """Datasets to mix, by name. A name seeds the shuffle of its source: keep it when others come or go."""
    shuffle: Shuffle = "full"
    """``blocks`` shuffles blocks of 1024 windows and windows within a block: for slow disks."""
    document_mask: bool = False
    """Tokens attend within their own document only, and positions start again with each. The default lets them see what
    stands before in the window, as GPT-2 did: the end-of-text token tells, and attention without a mask is faster."""
    prefetch: int = Field(default=2, ge=0, le=64)
    """Steps gathered ahead while the current one trains."""
    reader: Reader = "memmap"
    """``memmap`` is the fastest where files stay as they are. ``pread`` is for network disks: a file that is cut short
    or fails while it is read is an error there, and mapped it would kill the process; costs some 1 µs a window."""
    on_damage: OnDamage = "fail"
    """What to do when a block of a shard is not what was written. ``skip`` consumes its windows without learning from
    them. The default tells you: a disk that changes one block will change more."""
    max_damaged: float = Field(default=0.01, gt=0, lt=1)
    """With ``skip``: the share of all blocks above which the run ends all the same."""
    read_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds that a step waits for its data before the run ends: longer than a network disk takes to fail over."""
    cache: CacheConfig = CacheConfig()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.path is None) == (not self.sources):
            raise ValueError("needs either path (one dataset) or sources (a mixture)")
        return self

    def named_sources(self) -> dict[str, SourceConfig]:
        """The sources by name; a single dataset is called ``main``."""
        return {"main": SourceConfig(path=self.path)} if self.path is not None else dict(self.sources)
