"""What `mypt_dist` offers to other programs: the same parts that the command line uses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mypt_dist.config import load_mapping, with_overrides
from mypt_dist.generation import generate_text
from mypt_dist.generation.sampling import sampling_from
from mypt_dist.run.build import Outcome
from mypt_dist.run.build import train as run_training
from mypt_dist.run.config import RunConfig
from mypt_dist.run.models import create_model, get_model_info, list_models, load_for_generation, load_model

__all__ = ["create_model", "generate", "get_model_info", "list_models", "load_model", "train"]


def train(
    run: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, allow_changes: Sequence[str] = ()
) -> Outcome:
    """Train a run file, a preset's name, or the mapping that would stand in one.

    ``overrides`` are ``key.path=value`` texts, as on the command line. Returns the final state and the run's folder.
    Raises a `MyptError` for anything that is the user's, the data's or the disk's fault.
    """
    mapping = dict(run) if isinstance(run, Mapping) else load_mapping(str(run))
    config = RunConfig.of(with_overrides(mapping, overrides), "the run" if isinstance(run, Mapping) else str(run))
    return run_training(config, allow_changes=allow_changes)


def generate(path: str | Path, prompts: str | Sequence[str], preset: str | None = None, **sampling: Any) -> list[str]:
    """Continue prompts with the model of a run or checkpoint; only the new text is returned, one for each prompt.

    ``preset`` names sampling settings, ``sampling`` overrides them (``max_new_tokens=64, temperature=0, seed=1``).
    Raises `CheckpointError`, or `ConfigError` for an unknown setting.
    """
    settings = sampling_from(preset, sampling)
    model, tokenizer = load_for_generation(path)
    return generate_text(model, tokenizer, [prompts] if isinstance(prompts, str) else list(prompts), settings)
