"""Which parameters are not trained? Those whose name matches a pattern."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mypt_dist.errors import ConfigError
from mypt_dist.optim.groups import near_kinds, unmatchable

if TYPE_CHECKING:
    from torch import nn

KEY = "train.freeze"


def freeze(model: "nn.Module", patterns: Sequence[str]) -> int:
    """Stop the training of the parameters that match one of ``patterns``; how many numbers these are.

    They have no gradient, hence no moments and no decay, and count in no norm; they are saved as all others. To be
    called before an optimizer or an engine sees the model. Raises one `ConfigError` for every pattern that matches
    nothing, and where nothing would be left to train.
    """
    parameters = dict(model.named_parameters())
    useless = [_useless(i, pattern, model) for i, pattern in enumerate(patterns) if not _matching(parameters, pattern)]
    if useless:
        raise ConfigError("\n".join(useless))
    frozen = {name for pattern in patterns for name in _matching(parameters, pattern)}
    if len(frozen) == len(parameters):
        raise ConfigError(f"{KEY}: {', '.join(patterns)} matches every parameter: nothing is left to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sum(parameters[name].numel() for name in frozen)


def _matching(names: "dict[str, nn.Parameter]", pattern: str) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def _useless(index: int, pattern: str, model: "nn.Module") -> str:
    key = f"{KEY}.{index}: {pattern!r} matches no parameter"
    for name, reason in unmatchable(model).items():
        if fnmatchcase(name, pattern):
            return f"{key}: {name} {reason}"
    return f"{key}, near it are {near_kinds(pattern, [name for name, _ in model.named_parameters()])}"
