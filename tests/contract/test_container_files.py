"""What Docker, compose and shells read passes their own checkers, and agrees with the package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mypt_dist.launch.command import SIGNALS
from mypt_dist.run.provenance import REVISION

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def program(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run one that is installed beside this Python."""
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    assert path, f"{name} is missing: make install"
    return subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def shell_scripts() -> list[str]:
    """By their first lines, wherever they are."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file() and _is_shell(ROOT / name)]


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return re.match(rb"#!.*\b(ba|da)?sh\b", file.readline()) is not None


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["yamllint", "--strict", "docker"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.yaml"],
        ["shellcheck", *shell_scripts()],
    ],
    ids=lambda command: str(command[0]),
)
def test_the_checker_has_nothing_to_say(command: list[str]) -> None:
    done = program(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_shell_script_is_found() -> None:
    assert {".ci/packages", ".ci/run"} <= set(shell_scripts())


def test_the_checkers_find_what_is_wrong(tmp_path: Path) -> None:
    wrong = {
        "hadolint": ("Dockerfile", "FROM debian\nRUN cd /tmp\n"),
        "yamllint": ("a.yaml", "a: 1\na: 2\n"),
        "shellcheck": ("a.sh", "#!/bin/sh\nrm $1\n"),
    }
    for name, (file, content) in wrong.items():
        (tmp_path / file).write_text(content)
        assert program(name, str(tmp_path / file)).returncode != 0
    (tmp_path / "compose.yaml").write_text("services: {trainer: {imag: mypt}}\n")
    schema = ["--builtin-schema", "vendor.compose-spec"]
    assert program("check-jsonschema", *schema, str(tmp_path / "compose.yaml")).returncode != 0


def test_the_image_says_to_launchers_and_to_provenance_what_they_read() -> None:
    assert f"PET_SIGNALS_TO_HANDLE={SIGNALS}\n" in DOCKERFILE
    assert f"ENV {REVISION}=${{REVISION}}\n" in DOCKERFILE


def test_images_are_pinned_by_digest() -> None:
    compose = (ROOT / "docker/compose.yaml").read_text()
    found = re.findall(r"^ARG BASE_IMAGE=(.*)|^ +image: (docker\.io.*)", f"{DOCKERFILE}{compose}", re.MULTILINE)
    assert len(found) == 2
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base or service) for base, service in found)


def test_the_example_of_settings_names_those_of_compose_and_their_defaults() -> None:
    compose = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker/compose.yaml").read_text()))
    example = (ROOT / "docker/.env.example").read_text()
    assert {name for name in compose if not re.search(rf"^(# )?{name}=", example, re.MULTILINE)} == set()
    given = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert given == {name: compose[name] for name in given}
