"""The schema of a run file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mypt_dist.checkpoint import CheckpointConfig
from mypt_dist.config import Config, SafeName, SafePath, inside, load_mapping, validate
from mypt_dist.data.config import DataConfig, EvaluationConfig
from mypt_dist.data.mixture import with_mixture
from mypt_dist.models import ModelConfig, any_model
from mypt_dist.optim import OptimizerConfig, any_optimizer
from mypt_dist.optim.adamw import AdamWConfig
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
        """Read a run file or preset. Raises one `ConfigError` that lists every problem."""
        return validate(cls, load_mapping(name, overrides), name).with_sources()

    def with_sources(self) -> "RunConfig":
        """The same with the sources of its mixture file, if ``data.path`` leads to one. Raises `ConfigError`."""
        return self.model_copy(update={"data": with_mixture(self.data)})

    @property
    def folder(self) -> Path:
        """The run's folder, as an absolute path."""
        return (self.out or inside(Path("runs"), self.name)).resolve()
