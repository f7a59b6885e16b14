"""Distributed GPT training: memory-mapped tokens in, verified checkpoints out.

The functions here are the public API. Importing the package loads no torch; calling them does.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["create_model", "generate", "get_model_info", "list_models", "load_model", "train"]

if TYPE_CHECKING:
    from mypt_dist.run.api import create_model, generate, get_model_info, list_models, load_model, train


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mypt_dist' has no attribute {name!r}")
    from mypt_dist.run import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
