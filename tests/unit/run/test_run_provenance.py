import subprocess
from pathlib import Path

import pytest

from mypt_dist.run.provenance import revision


@pytest.mark.parametrize(
    ("told", "found"),
    [("", (None, None)), ("0123abc", ("0123abc", False)), ("0123abc-dirty", ("0123abc", True))],
)
def test_without_a_repository_the_commit_is_what_the_image_says(
    told: str, found: tuple[str | None, bool | None], tmp_path: Path
) -> None:
    assert revision(tmp_path, {"MYPT_REVISION": told}) == found
    (tmp_path / "pyproject.toml").touch()
    assert revision(tmp_path, {"MYPT_REVISION": told}) == found


def test_a_checkout_is_asked_before_the_image(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert revision(tmp_path, {"MYPT_REVISION": "0123abc"}) == (head, False)
    (tmp_path / "pyproject.toml").write_text("changed")
    assert revision(tmp_path, {}) == (head, True)
