"""``mypt rehearse`` as a user sees it, without starting a rank."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mypt_dist.cli import main
from mypt_dist.cli.rehearsal_view import Lines, Spinner
from mypt_dist.run.rehearse.report import StageResult, failed, passed

pytestmark = pytest.mark.e2e


@pytest.fixture
def mypt(capsys: pytest.CaptureFixture[str]) -> Any:
    """``mypt(...)``: exit code, stdout, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main(["rehearse", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom mypt_dist.cli import main\ntry: main(['rehearse', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'accelerate', 'deepspeed', 'mlflow'} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "virtual nodes" in done.stdout


def test_a_sound_run_is_told_in_a_table_and_ends_with_0(mypt: Any, run_file: Path) -> None:
    code, out, err = mypt(run_file, "--only", "plan", "--only", "nodes")
    assert code == 0, out + err
    assert [line.split()[:2] for line in out.splitlines()[3:5]] == [["plan", "passed"], ["nodes", "passed"]]
    assert "train.steps 6 -> 2000" in out
    assert [line.split()[:2] for line in err.splitlines()] == [["plan", "passed"], ["nodes", "passed"]]


def test_a_mistake_is_told_with_why_and_remedy_and_ends_with_2(mypt: Any, run_file: Path) -> None:
    code, out, _ = mypt(run_file, "--ranks", "3", "--nodes", "1", "--only", "plan")
    assert code == 2
    assert "plan: error: train.batch_size: train.batch_size 8 cannot be shared by 3 ranks" in out
    assert "  do:  use a multiple of 3, such as 6" in out


def test_json_is_for_programs(mypt: Any, run_file: Path) -> None:
    code, out, _ = mypt(run_file, "--only", "plan", "train.save_every=500", "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["ranks"], told["nodes"]) == (0, True, 2, 2)
    (finding,) = told["stages"][0]["findings"]
    assert (finding["check"], finding["severity"]) == ("save-every", "warning")


def test_a_run_file_that_is_none_is_told_as_everywhere(mypt: Any, tmp_path: Path) -> None:
    code, _, err = mypt(tmp_path / "none.json")
    assert code == 2
    assert "is neither a file nor a preset" in err


@pytest.mark.parametrize("view", [Lines, Spinner])
def test_a_terminal_and_a_log_get_a_line_for_each_stage(view: type[Lines]) -> None:
    text = io.StringIO()
    shown = view(Console(file=text, force_terminal=view is Spinner, width=120, color_system=None))
    for name, outcome in (("launch", passed("2 ranks on 2 nodes")), ("save", failed("[nothing] saved"))):
        shown.begins(name)
        shown.ends(StageResult(name, outcome, 1.25))
    assert "launch    passed      1.2 s  2 ranks on 2 nodes" in text.getvalue()
    assert "[nothing] saved" in text.getvalue()
