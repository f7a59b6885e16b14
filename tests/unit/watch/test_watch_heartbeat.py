import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.watch.heartbeat import health, last_heard
from mypt_dist.watch.statuses import FOLDER, forget, publish, read_all, watch_folder, with_the_dead
from mypt_dist.watch.verdict import GONE, RankStatus


def beat(folder: Path, **told: object) -> None:
    fields = {"time": 1000.0, "phase": "vote", "step": 5, "ended": False, "hung": False}
    (folder / "heartbeat.json").write_text(json.dumps({**fields, **told}))


@pytest.mark.parametrize(
    ("told", "now", "alive", "reason"),
    [
        ({}, 1010.0, True, "alive: vote, step 5, 10 s ago"),
        ({}, 1121.0, False, "silent for more than 120 s"),
        ({}, 500.0, False, "silent"),
        ({"ended": True}, 1001.0, False, "ended"),
        ({"hung": True}, 1001.0, False, "hung"),
    ],
)
def test_a_heartbeat_is_judged_by_its_age_and_by_what_it_says(
    tmp_path: Path, told: dict[str, object], now: float, alive: bool, reason: str
) -> None:
    beat(tmp_path, **told)
    found = health(tmp_path, 120, now)
    assert found.alive is alive
    assert reason in found.reason


def test_a_folder_without_a_heartbeat_is_not_alive_and_one_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    assert not health(tmp_path / "none", 120, 0.0).alive
    (tmp_path / "heartbeat.json").write_text("{")
    with pytest.raises(ConfigError, match=r"heartbeat.json cannot be read"):
        health(tmp_path, 120, 0.0)
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        health(tmp_path / "heartbeat.json", 120, 0.0)


def test_of_a_folder_of_runs_the_one_that_was_heard_last_counts(tmp_path: Path) -> None:
    assert last_heard(tmp_path) == tmp_path
    assert last_heard(tmp_path / "none") == tmp_path / "none"
    for age, name in enumerate(("second/run", "first", "first/deeper/than/runs")):
        (tmp_path / name).mkdir(parents=True)
        beat(tmp_path / name)
        os.utime(tmp_path / name / "heartbeat.json", (age, age))
    assert last_heard(tmp_path) == tmp_path / "first"
    assert last_heard(tmp_path / "second/run") == tmp_path / "second/run"


def test_a_health_check_has_an_exit_code_for_each_answer_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mypt_dist.cli import main\ntry:\n    code = main(sys.argv[1:])\n"
        "except SystemExit as error:\n    code = error.code\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )

    def ask(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, "runs", "alive", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert ask().returncode == 1
    beat(tmp_path, time=1.0)
    assert ask("--max-age", "1e12").returncode == 0
    assert json.loads(ask("--json").stdout)["alive"] is False
    (tmp_path / "heartbeat.json").write_text("[]")
    assert ask().returncode == 2


def status(rank: int, **more: object) -> RankStatus:
    return RankStatus(rank, "here", 100 + rank, "vote", 5, 1.5, 1000.0, **more)  # type: ignore[arg-type]


def test_ranks_read_what_others_published_and_nothing_else(tmp_path: Path) -> None:
    for rank in (0, 1, 9):
        publish(tmp_path, status(rank, state="S"))
    (tmp_path / "rank-00002.json").write_text("{}")
    (tmp_path / "rank-00003.json").write_text(
        json.dumps({**json.loads((tmp_path / "rank-00001.json").read_text())})[:9]
    )
    wrong = {**json.loads((tmp_path / "rank-00001.json").read_text()), "step": "5"}
    (tmp_path / "rank-00004.json").write_text(json.dumps(wrong))
    assert read_all(tmp_path, 8) == [status(0, state="S"), status(1, state="S")]
    forget(tmp_path)
    assert read_all(tmp_path, 8) == []


def test_a_process_that_is_gone_is_called_so_on_its_own_machine_alone() -> None:
    dead = with_the_dead([status(0), status(1)], "here", lambda pid: pid != 101)
    assert [found.state for found in dead] == ["", GONE]
    assert [found.state for found in with_the_dead([status(1)], "elsewhere", lambda pid: False)] == [""]


def test_the_ranks_folder_is_the_runs_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch_folder(tmp_path) == tmp_path / FOLDER
    monkeypatch.setenv("MYPT_WATCH_DIR", "/scratch/watch")
    assert watch_folder(tmp_path) == Path("/scratch/watch")
