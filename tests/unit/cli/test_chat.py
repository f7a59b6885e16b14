"""A chat in a terminal: what is typed, and what a mistake does."""

from types import SimpleNamespace

import pytest

from mypt_dist.cli import chat
from mypt_dist.errors import ConfigError


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> list[str | type[BaseException]]:
    """What a person types or presses next; Ctrl-D after it."""
    keys: list[str | type[BaseException]] = []

    def typed(prompt: str) -> str:
        key = keys.pop(0) if keys else EOFError
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", typed)
    return keys


def test_lines_go_on_after_a_backslash_and_ctrl_c_forgets_one(typing: list[str | type[BaseException]]) -> None:
    typing += ["one", "first\\", "second", KeyboardInterrupt, "last"]
    assert [*chat._typed()] == ["one", "first\nsecond", "last"]


def test_a_mistake_is_told_and_the_conversation_goes_on(
    typing: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []

    def hear(line: str) -> bool:
        heard.append(line)
        if line == "/resume":
            raise ConfigError("there is no command /resume")
        return line != "/quit"

    typing += ["hello", "/resume", "again", "/quit", "never heard"]
    chat._converse(SimpleNamespace(hear=hear))  # type: ignore[arg-type]  # it is only talked to
    assert heard == ["hello", "/resume", "again", "/quit"]
    assert capsys.readouterr().err == "there is no command /resume\n"
