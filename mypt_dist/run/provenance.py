"""Which code and which versions a run was made with."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mypt_dist
from mypt_dist.world import JSON

PACKAGES = ("torch", "accelerate", "deepspeed", "numpy", "tiktoken", "mlflow")


@cache
def code_version() -> dict[str, JSON]:
    """Version, commit of the checkout the package runs from (null when installed), and its dependencies' versions."""
    checkout = Path(mypt_dist.__file__).parents[1]
    commit = _git(checkout, "rev-parse", "HEAD") if (checkout / "pyproject.toml").is_file() else None
    return {
        "version": mypt_dist.__version__,
        "commit": commit,
        "dirty": bool(_git(checkout, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
