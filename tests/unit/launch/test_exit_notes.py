"""A rank's own exit code reaches the supervisor, or nothing does; the rank never suffers for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mypt_dist.launch.exit_notes import FOLDER, noted, read_notes


def leave(code: object) -> Callable[[], int]:
    def run() -> int:
        raise SystemExit(code)

    return run


@pytest.mark.parametrize(("told", "noted_as"), [(0, 0), (None, 0), (6, 6), ("a message", 1)])
def test_a_program_that_exits_leaves_its_code(told: object, noted_as: int, tmp_path: Path) -> None:
    environ = {FOLDER: str(tmp_path), "RANK": "3"}
    with pytest.raises(SystemExit):
        noted(leave(told), environ)
    assert read_notes(tmp_path) == {3: noted_as}
    assert FOLDER not in environ, "what it starts in its turn must not speak for it"


def test_a_code_that_is_returned_is_noted_and_returned(tmp_path: Path) -> None:
    assert noted(lambda: 7, {FOLDER: str(tmp_path)}) == 7
    assert read_notes(tmp_path) == {0: 7}


def test_a_traceback_is_noted_as_one(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        noted(lambda: 1 // 0, {FOLDER: str(tmp_path), "RANK": "1"})
    assert read_notes(tmp_path) == {1: 1}


def test_a_rank_that_began_and_left_no_word_is_known(tmp_path: Path) -> None:
    (tmp_path / "0.began").touch()
    (tmp_path / "1.began").touch()
    (tmp_path / "1.ended").write_text("9")
    assert read_notes(tmp_path) == {0: None, 1: 9}


def test_a_note_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    assert noted(lambda: 0, {FOLDER: str(tmp_path / "gone")}) == 0
    assert read_notes(tmp_path / "gone") == {}


def test_without_a_supervisor_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert noted(lambda: 0, {}) == 0
    assert list(tmp_path.iterdir()) == []
