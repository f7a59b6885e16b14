"""Which code and which versions a run was made with."""

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import mypt_dist
from mypt_dist.installed import installed_version
from mypt_dist.world import JSON

PACKAGES = ("torch", "accelerate", "deepspeed", "numpy", "tiktoken", "mlflow")

REVISION = "MYPT_REVISION"
"""The variable by which a container image says what it was built from: a commit, with "-dirty" if it was changed."""


@cache
def code_version() -> dict[str, JSON]:
    """Version, commit, whether it was changed (both null where nothing tells), and the dependencies' versions."""
    commit, dirty = revision(Path(mypt_dist.__file__).parents[1], os.environ)
    return {
        "version": mypt_dist.__version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        **{name: installed_version(name) for name in PACKAGES},
    }


def revision(checkout: Path, environ: Mapping[str, str]) -> tuple[str | None, bool | None]:
    """Commit, and whether files were changed since: of the checkout if it is one, else what the image says."""
    if (checkout / "pyproject.toml").is_file() and (commit := _git(checkout, "rev-parse", "HEAD")):
        return commit, bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))
    told = environ.get(REVISION, "")
    return (told.removesuffix("-dirty"), told.endswith("-dirty")) if told else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
