"""What holds for every file below launch/."""

import subprocess
import sys
from pathlib import Path

from mypt_dist.config.presets import folder

ROOT = Path(__file__).parents[2]


def test_yamllint_finds_nothing() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(ROOT / ".yamllint.yaml"), str(folder("launch"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_table_leads_to_every_file() -> None:
    table = (folder("launch") / "README.md").read_text()
    files = [path.relative_to(folder("launch")).as_posix() for path in folder("launch").rglob("*.*") if path.is_file()]
    missing = [name for name in files if f"]({name})" not in table and name != "README.md"]
    # One entry leads to all of DeepSpeed's own files.
    assert [name for name in missing if not name.startswith("deepspeed/")] == []
