"""`mypt doctor` as its users meet it: a table, JSON, an exit code, and nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.cli import main
from mypt_dist.run.doctor.report import diagnose

pytestmark = pytest.mark.e2e


def doctor(*arguments: str | Path, **environ: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "mypt_dist", "doctor", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **environ})
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_healthy_run_passes_and_its_folder_is_not_touched(run_file: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    code, out = doctor("--run", run_file, "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["ranks"]) == (0, True, 1)
    by_name = {check["name"]: check for check in report["checks"]}
    assert by_name["data"]["status"] == by_name["memory"]["status"] == by_name["disk promises"]["status"] == "ok"
    assert all(set(check) == {"name", "status", "found", "prevents", "advice"} for check in report["checks"])
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_is_readable_without_colour_and_ends_with_2(run_file: Path, tmp_path: Path) -> None:
    code, out = doctor("--run", run_file, f"data.path={tmp_path / 'none'}", RANK="0", WORLD_SIZE="2")
    assert code == 2
    assert "\x1b" not in out
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("fail  rank variables"))
    assert lines[at + 1] == "      prevents: ranks that wait for others forever"
    assert lines[at + 2] == "      to do: unset RANK WORLD_SIZE, or start with mypt launch"
    assert "2 fail" in lines[-1] or "3 fail" in lines[-1], "data, and perhaps what depends on it"


def test_every_check_has_a_name_of_its_own_and_says_what_it_is_for(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    findings = diagnose(None, {}).findings
    assert len({finding.name for finding in findings}) == len(findings)
    assert all(finding.prevents for finding in findings if finding.status != "skip")
    page = (Path(__file__).parents[2] / "docs/how-to/doctor.md").read_text()
    assert [finding.name for finding in findings if f"| {finding.name} |" not in page] == []


def test_a_launcher_starts_it_on_the_ranks(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["launch", "ddp", str(run_file), "train.seed=3", "--ranks", "4", "--doctor", "--dry-run"]
    assert doctor_main([*arguments, "--allow-change", "train.seed"]) == 0
    assert capsys.readouterr().out.endswith(f"-m mypt_dist doctor --run-file {run_file} train.seed=3\n")


def doctor_main(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
