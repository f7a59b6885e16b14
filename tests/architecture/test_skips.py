"""A test that is skipped where nobody looks is no test."""

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import pytest_sessionfinish


def finished(*reasons: str) -> Any:
    """A session that went well but for what was skipped, and what it said."""
    said: list[str] = []
    reports = [SimpleNamespace(nodeid="test_x", longrepr=("file", 1, f"Skipped: {reason}")) for reason in reasons]
    reporter = SimpleNamespace(stats={"skipped": reports}, write_line=lambda line, **_: said.append(line))
    plugins = SimpleNamespace(get_plugin=lambda name: reporter)
    session = SimpleNamespace(config=SimpleNamespace(pluginmanager=plugins), exitstatus=pytest.ExitCode.OK)
    pytest_sessionfinish(session)  # type: ignore[arg-type]
    return session.exitstatus, len(said)


def test_a_skip_fails_the_session_under_ci_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert finished("needs root") == (pytest.ExitCode.TESTS_FAILED, 1)
    assert finished("flex attention is fused on GPUs") == (pytest.ExitCode.OK, 0)
    assert finished() == (pytest.ExitCode.OK, 0)
    monkeypatch.delenv("CI")
    assert finished("needs root") == (pytest.ExitCode.OK, 0)
