"""Nobody is there to read what the program prints, any more or from the start: training goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counted import count
from lives import ForkServer, write_run

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.tracking.journal import read_events

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def assert_trained(run: Path) -> None:
    """All of it, with every line of the journal whole."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert read_events(run)[-1]["status"] == "finished"
    assert open_checkpoint(run).manifest.step == 6


ENDINGS = {
    "pipe": "reader_leaves:0",
    "pipe-later": "reader_leaves:3",
    "terminal": "terminal_goes:3",
    "full": "output_disk_full",
}


def test_a_reader_that_leaves_does_not_end_a_run(
    run_mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    for name, fault in ENDINGS.items():
        file = write_run(run_mapping, tmp_path, name)
        assert server.start(file, inject={0: fault}).wait() == [0], name
        assert_trained(file.with_suffix(""))
    insisting = write_run(run_mapping, tmp_path, "insisting")
    assert server.start(insisting, inject={0: "reader_leaves:0;without_deaf_ears"}).wait() == [1]
    count(
        "stdout and stderr lose their reader: a pipe, a terminal, a full disk",
        "the run trains to its end and exits with 0",
        cases=len(ENDINGS) + 1,
        ended_early=0,
    )


def test_files_of_a_run_started_without_standard_streams_are_not_printed_into(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    file = write_run(run_mapping, tmp_path, "detached")
    command = f'exec "{sys.executable}" -m mypt_dist train "{file}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False, timeout=300).returncode == 0
    assert_trained(file.with_suffix(""))


def test_standard_streams_that_are_missing_are_replaced() -> None:
    code = """
import os, sys
os.closerange(0, 3)
from mypt_dist.cli import main
try: main(["--version"])
except SystemExit: pass
os._exit(0 if os.open(os.devnull, os.O_RDONLY) > 2 else 3)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
