"""The ``data`` section of a run file: which prepared datasets, in which proportion, in which order."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mypt_dist.config import Config, SafeName, SafePath, Sha256
from mypt_dist.data.order import Shuffle
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.config import CacheConfig
from mypt_dist.data.shard_tokens import Reader
from mypt_dist.data.stream import OnDamage

SourceName = Annotated[SafeName, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Weight = Annotated[float, Field(ge=0)]
Weights = dict[SourceName, Weight]


class SourceConfig(Config):
    """One dataset of a mixture."""

    path: DatasetPlace
    """A folder made by ``mypt data prepare``, or described by ``mypt data adopt``; or the URL of a copy of a prepared
    one, such as ``s3://bucket/data``."""
    weight: Weight = 1.0
    """Share of the samples, relative to the other sources. 0: none, outside the phases that name the source."""
    max_epochs: float | None = Field(default=None, gt=0)
    """How often the source may be read over the whole run. Null: as often as its share needs."""
    exhausted: Literal["repeat", "stop", "drop", "error"] | None = None
    """What happens then. ``repeat``: it is read once more, there is no limit. ``stop``: the run ends, saved, before the
    step that would need more. ``drop``: the other sources share its weight from the next sample on. ``error``: a run
    whose steps need more is refused at its start. Null: ``error`` where there is a ``max_epochs``, ``repeat`` where
    there is none. The last three mean one epoch where there is none."""
    fingerprint: Sha256 | None = None
    """Of the dataset's content, as its ``dataset.json`` tells it: another is refused. Null: any."""

    @model_validator(mode="after")
    def _limit_is_meant(self) -> Self:
        if self.exhausted == "repeat" and self.max_epochs is not None:
            raise ValueError("exhausted: repeat has no end: leave out max_epochs, or choose stop, drop or error")
        return self

    @property
    def epochs(self) -> float | None:
        """How often it may be read, null without a limit."""
        return 1.0 if self.max_epochs is None and self.exhausted not in (None, "repeat") else self.max_epochs


class PhaseConfig(Config):
    """Weights that hold until a step or a number of tokens."""

    until_step: int | None = Field(default=None, ge=1)
    """The phase ends where a run of this ``train.batch_size`` has done so many steps."""
    until_tokens: int | None = Field(default=None, ge=1)
    """The phase ends with the window that holds this target of the run, counted from 1."""
    weights: Weights = Field(min_length=1)
    """Of the sources that take part, by name. Sources that are not named take no part."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if (self.until_step is None) == (self.until_tokens is None):
            raise ValueError("needs either until_step or until_tokens; behind the last phase the sources' weights hold")
        return self


class CoverageConfig(Config):
    """What a run reads of its data, as a ratio: tokens read over the whole run to tokens to learn from."""

    limit: float = Field(default=0.5, ge=0)
    """The ratio below which ``below`` applies. By default where most of what was prepared is never read, which is more
    often a mistake in ``train.steps`` than a wish."""
    below: Literal["ignore", "warn", "refuse"] = "warn"
    """``refuse`` ends a run before its first step."""


class DataConfig(Config):
    """What is learned from. Either ``path``, or several named ``sources``."""

    path: DatasetPlace | None = None
    """A folder made by ``mypt data prepare``, or described by ``mypt data adopt``; the URL of a copy of a prepared one,
    such as ``s3://bucket/data``; or a mixture file (``mixture.json`` or the folder that holds it), which stands for the
    ``sources`` that it lists."""
    sources: dict[SourceName, SourceConfig] = {}
    """Datasets to mix, by name. A name seeds the shuffle of its source: keep it when others come or go."""
    weights: Weights = {}
    """Instead of those of the sources or of the mixture file, for those that are named here."""
    phases: tuple[PhaseConfig, ...] = ()
    """A curriculum: each phase in turn, then the sources' own weights. A switch comes exactly at its sample."""
    coverage: CoverageConfig = CoverageConfig()
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
        # What a path stands for is known when it is read.
        if self.sources:
            self.check_weights()
        return self

    def check_weights(self) -> None:
        """Raise ValueError where a weight is of no source, or where nothing has any."""
        named = self.named_sources()
        for key, weights in self._tables():
            strangers = sorted(weights.keys() - named.keys())
            if strangers:
                raise ValueError(f"{key} names {strangers[0]!r}, the sources are {', '.join(named)}")
            if not any(weights.values()):
                raise ValueError(f"{key}: no source has a weight above 0")

    def named_sources(self) -> dict[str, SourceConfig]:
        """The sources by name; a single dataset is called ``main``."""
        return {"main": SourceConfig(path=self.path)} if self.path is not None else dict(self.sources)

    def own_weights(self) -> dict[str, float]:
        """Of all sources, outside phases."""
        return {name: self.weights.get(name, source.weight) for name, source in self.named_sources().items()}

    def _tables(self) -> list[tuple[str, Mapping[str, float]]]:
        """Weights by the key that gives them."""
        phases = [(f"phases.{number}.weights", phase.weights) for number, phase in enumerate(self.phases)]
        return [("weights", {**self.own_weights(), **self.weights}), *phases]


class EvaluationSet(Config):
    """A dataset that a run is measured on besides its own validation splits."""

    path: DatasetPlace
    """As that of a source, with the tokenizer of the run's data."""
    split: Literal["train", "val"] = "val"
    windows: int = Field(default=128, ge=1)
    """Always the same ones, spread evenly over the split."""


class AnswersConfig(Config):
    """Held-out conversations whose last answer the model is to give itself, in every evaluation."""

    path: SafePath
    """A file of conversations, a line each, in any format that ``mypt data prepare-chat`` reads."""
    count: int = Field(default=8, ge=1, le=256)
    """The first so many of them. Each costs a pass over its tokens for every new one."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Of an answer; it is then cut, and does not count as well-formed."""
    template: str = "mypt"
    """A template's name, or a file: that of the training data."""


METRICS = ("loss", "ppl", "bpb", "accuracy", "format")
"""Of every evaluation: no set can be called so, since a tracker may keep ``val/loss`` in a file of this name."""


class EvaluationConfig(Config):
    """Further measurements, each on its own windows and under its own name: ``val/NAME/loss`` and so on."""

    by_source: bool = False
    """Measure each source's validation split alone, too, on ``train.eval_windows`` windows. Costs as much again for
    each source."""
    sets: dict[SourceName, EvaluationSet] = {}
    """Further datasets, by name."""
    answers: AnswersConfig | None = None
    """Ask the model itself: ``val/format`` says how many answers are as taught, and a table of all is kept."""

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = sorted(self.sets.keys() & set(METRICS))
        if taken:
            raise ValueError(f"sets.{taken[0]}: {', '.join(METRICS)} are names of metrics, choose another")
        return self
