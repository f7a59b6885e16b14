"""What may become a file or folder, and what may not."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.config import inside, validate
from mypt_dist.config.names import is_safe_name
from mypt_dist.errors import ConfigError
from mypt_dist.run.config import RunConfig

HOSTILE = [
    "", ".", "..", "../x", "a/b", "/etc", "a\\b", "..\\x", "-rf", "--out", ".hidden", "a" * 65, "a\n", "a\x00b", "a b",
    "a\tb", "~", "~root", "$HOME", "a:b", "C:", "a*", "a?", "a|b", "a<b", "%2e%2e", "a.", "a..",
    "a\u2215b", "a\uff0fb", "a\u2044b", "\u0430bc", "a\u200bb", "a\u202eb", "\ud800", "\uff0e\uff0e", "\uff11",
    "CON", "con", "nul.txt", "Aux", "COM1", "lpt9.tar.gz",
]  # fmt: skip
PLAIN = ["run", "a", "0", "v1.2-rc_3", "a" * 64, "CONSOLE", "com", "nullable", "a..b", "com10"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused(name: str, tmp_path: Path) -> None:
    assert not is_safe_name(name)
    with pytest.raises(ConfigError, match="cannot be a file or folder"):
        inside(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["run", "a", "0", "v1.2-rc_3", "a" * 64, "CONSOLE", "com", "nullable", "a..b", "com10"]
)
def test_a_plain_name_is_taken(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@given(st.text(max_size=70) | st.sampled_from(HOSTILE) | st.from_regex(r"[a-zA-Z0-9.\-_/\\]{0,70}"))
def test_whatever_the_name_the_path_is_one_step_below(name: str) -> None:
    root = Path("/nowhere/root")
    if not is_safe_name(name):
        with pytest.raises(ConfigError):
            inside(root, name)
        return
    path = inside(root, name)
    assert path.parent == root
    assert path.name == name
    assert path.resolve().parent == root.resolve()
    assert name.isascii()
    assert name.isprintable()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("key", ["name", "source"])
def test_a_run_file_with_a_hostile_name_is_refused(name: str, key: str, run_mapping: dict[str, Any]) -> None:
    wrong: dict[str, Any] = {"name": name} if key == "name" else {"data": {"sources": {name: {"path": "x"}}}}
    with pytest.raises(ConfigError, match="is not valid"):
        validate(RunConfig, {**run_mapping, **wrong}, "run.json")


@pytest.mark.parametrize("path", ["a\x00b", "a\nb", "\ud800", "a\x1b[2J", "a\u202eb"])
def test_a_path_that_nobody_types_is_refused(path: str, run_mapping: dict[str, Any]) -> None:
    for wrong in ({"out": path}, {"data": {"path": path}}):
        with pytest.raises(ConfigError, match="is not valid"):
            validate(RunConfig, {**run_mapping, **wrong}, "run.json")
