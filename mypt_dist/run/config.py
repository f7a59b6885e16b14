"""The schema of a run file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mypt_dist.checkpoint import CheckpointConfig
from mypt_dist.config import Config, SafeName, SafePath, inside, load_mapping, validate
from mypt_dist.data.config import DataConfig, EvaluationConfig
from mypt_dist.data.mixture import with_mixture
from mypt_dist.models import ModelConfig, any_model
from mypt_dist.optim import OptimizerConfig, any_optimizer
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.inheritance import StartFrom, with_inheritance
from mypt_dist.tracking import TrackerConfig, any_tracker
from mypt_dist.tracking.mlflow_tracker import MlflowConfig
from mypt_dist.training.config import TrainConfig
from mypt_dist.watch.config import WatchConfig

if TYPE_CHECKING:
    AnyModel = ModelConfig
    AnyOptimizer = OptimizerConfig
    AnyTracker = TrackerConfig
else:
    AnyModel, AnyOptimizer, AnyTracker = any_model(), any_optimizer(), any_tracker()


class ModelFile(Config):
    """The ``model`` section alone."""

    model: AnyModel


class About(Config):
    """What one file is for. Not inherited by the files that extend it."""

    description: str = ""
    parameters: int | None = None
    """Exact number of trainable parameters of a preset's model, a tied weight counted once."""
    vocab_size: int | None = None
    """The vocabulary that ``parameters`` is counted with."""


class RunConfig(Config):
    """Everything that decides what a run learns. How many ranks share the work is the launch file's business."""

    about: About = About()
    extends: tuple[str, ...] = ()
    """Files or presets that this one starts from, already merged in; kept as a record of where settings came from."""
    name: SafeName = "run"
    out: SafePath | None = None
    """The run's folder. Null: ``runs/NAME``."""
    model: AnyModel
    """With ``start_from`` it need only say what differs from the model to start from, where that may differ."""
    start_from: StartFrom | None = None
    """A trained model to begin with. Null: random weights."""
    data: DataConfig
    optimizer: AnyOptimizer = AdamWConfig()
    train: TrainConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    trackers: tuple[AnyTracker, ...] = (MlflowConfig(),)
    """Where numbers are shipped to, besides ``metrics.jsonl``."""
    watch: WatchConfig = WatchConfig()

    @classmethod
    def load(cls, name: str, overrides: Sequence[str] = ()) -> "RunConfig":
        """Read a run file or preset, and what it inherits from the checkpoint that it starts from.

        Raises one `ConfigError` that lists every problem.
        """
        return cls.of(load_mapping(name, overrides), name).with_sources()

    @classmethod
    def of(cls, mapping: Mapping[str, Any], where: str) -> "RunConfig":
        """What stands in a run file named ``where``, checked. See `load`."""
        return validate(cls, with_inheritance(mapping, where), where)

    def with_sources(self) -> "RunConfig":
        """The same with the sources of its mixture file, if ``data.path`` leads to one. Raises `ConfigError`."""
        return self.model_copy(update={"data": with_mixture(self.data)})

    def with_vocabulary(self, size: int) -> Self:
        """The same with a model for a tokenizer of ``size`` ids, where its vocabulary is open or may grow."""
        return self.model_copy(update={"model": self.open_model(size).with_vocabulary(size)})

    def open_model(self, size: int | None = None) -> ModelConfig:
        """The model, its vocabulary null if it may grow: that of a model to start from, to ``size`` ids or any."""
        rows, start = self.model.vocab_size, self.start_from
        may_grow = start is not None and rows is not None and (size is None or rows < size)
        return self.model.model_copy(update={"vocab_size": None}) if may_grow else self.model

    @property
    def folder(self) -> Path:
        """The run's folder, as an absolute path."""
        return (self.out or inside(Path("runs"), self.name)).resolve()
