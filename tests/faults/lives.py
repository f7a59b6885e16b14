"""Lives of a run: started from a fork server or cold, killed, started again, and compared with an undisturbed run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from conftest import launch_command
from finished_runs import hashes

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.tracking.journal import read_events, read_metrics

PATIENCE = 240
"""Seconds for what another process does at once on a machine that has time for it."""


def eventually(what: str, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.01)


@dataclass
class Life:
    """The ranks of one start of a run."""

    server: "ForkServer"
    pids: list[int]
    log: Path

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """The ranks' exit codes, negative for signals. Whoever still runs after so long is killed, and that is told."""
        codes = self.server.ask({"wait": self.pids, "seconds": seconds})
        if None in codes:
            self.kill()
            raise AssertionError(f"ranks that did not end: {codes}\n{self.said()}")
        return list(codes)

    def send(self, number: signal.Signals, rank: int) -> None:
        """A signal to one rank."""
        with suppress(ProcessLookupError):
            os.kill(self.pids[rank], number)

    def kill(self) -> list[int]:
        """kill -9 of all ranks; how each ended, for some may have been faster."""
        for rank in range(len(self.pids)):
            self.send(signal.SIGKILL, rank)
        return self.wait()

    def ended(self) -> bool:
        """Whether all ranks have."""
        return None not in self.server.ask({"wait": self.pids, "seconds": 0})

    def said(self) -> str:
        """What the ranks printed."""
        return self.log.read_text() if self.log.exists() else ""


@dataclass
class ColdLife(Life):
    """A life that begins as a user's does; of more than one rank, under torchrun."""

    process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def begin(cls, run_file: Path, ranks: int) -> "ColdLife":
        """Start ``mypt train`` on so many ranks."""
        program = ["-m", "mypt_dist", "train", str(run_file)]
        command = launch_command(ranks, *program) if ranks > 1 else [sys.executable, *program]
        log = run_file.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        return cls(None, [process.pid], log, process)  # type: ignore[arg-type]

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """The exit code of the process that was started."""
        assert self.process is not None
        try:
            return [self.process.wait(seconds)]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end\n{self.said()}") from None

    def kill(self) -> list[int]:
        """kill -9 of launcher and ranks; how the launcher ended."""
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            # Stopped first, so that it starts nobody behind our back.
            launcher.suspend()
            family = [*launcher.children(recursive=True), launcher]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family[:-1], timeout=PATIENCE)
        return [self.process.wait()]

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None


class ForkServer:
    """Starts ranks from a process that has imported everything."""

    def __init__(self, *modules: str) -> None:
        """``modules`` are imported beforehand as well."""
        # Without coverage: what runs here is run, and measured, elsewhere too.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "GLOO_SOCKET_IFNAME": "lo"},
        )

    def start(
        self,
        run_file: Path,
        *overrides: str,
        ranks: int = 1,
        inject: Mapping[int, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Life:
        """Start ``mypt train`` on so many ranks; ``inject`` names a fault by rank."""
        run_files = [run_file] * ranks
        return self.start_each(run_files, *overrides, inject=inject, environment=environment)

    def start_each(
        self,
        run_files: list[Path],
        *overrides: str,
        inject: Mapping[int, str] | None = None,
        environment: Mapping[str, str] | None = None,
        variables: Mapping[int, Mapping[str, str]] | None = None,
    ) -> Life:
        """As `start`, with a run file, and if need be ``variables`` of the environment, for each rank."""
        ranks = len(run_files)
        log = run_files[0].with_suffix(".log")
        log.unlink(missing_ok=True)
        port = free_port()
        pids = []
        for rank, run_file in enumerate(run_files):
            own = {**(environment or {}), "INJECT": (inject or {}).get(rank, "")}
            if ranks > 1:
                own |= rank_variables(rank, ranks, port)
            own |= (variables or {}).get(rank, {})
            request = {"ranks": [own], "arguments": ["train", str(run_file), *overrides], "log": str(log)}
            pids += self.ask(request)
        return Life(self, pids, log)

    def run(self, ranks: int, arguments: list[str], log: Path, environment: Mapping[str, str]) -> Life:
        """Start ``python`` with these arguments on so many ranks, all of which write into ``log``."""
        port = free_port()
        each = [{**environment, **rank_variables(rank, ranks, port)} for rank in range(ranks)]
        return Life(self, self.ask({"ranks": each, "arguments": arguments, "log": str(log), "script": True}), log)

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()


def rank_variables(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun sets, on one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_run(mapping: Mapping[str, Any], path: Path, name: str, **train: Any) -> Path:
    """A run file in ``path`` whose run lives beside it, in the folder ``name``."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"{name}.json"
    whole = {**mapping, "out": str(path / name), "train": {**mapping["train"], **train}}
    file.write_text(json.dumps(whole))
    return file


def steps_done(run: Path) -> int:
    """The newest step in the journal, 0 without one."""
    with suppress(OSError, ValueError, IndexError):
        return int(json.loads((run / "metrics.jsonl").read_bytes().splitlines()[-1])["step"])
    return 0


@dataclass(frozen=True)
class Final:
    """What must not depend on what a run went through."""

    tensors: Mapping[str, str]
    """sha256 of every weight and moment, read from the last checkpoint."""
    order_hash: str
    losses: list[tuple[int, float]]
    validation: list[tuple[int, float]]


def final(run: Path) -> Final:
    """Of the newest checkpoint, which must be valid."""
    rows = read_metrics(run)
    with open_checkpoint(run) as checkpoint:
        curves = _curve(rows, "train/loss"), _curve(rows, "val/loss")
        return Final(hashes(checkpoint), checkpoint.manifest.order_hash, *curves)


def _curve(rows: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]


def lost_work(run: Path) -> list[int]:
    """For each start after the first: steps that were done and had to be done again."""
    lines = (run / "metrics.jsonl").read_bytes()
    lost = []
    for event in read_events(run)[1:]:
        if event["kind"] == "start":
            rows = [json.loads(line) for line in lines[: event["metrics_bytes"]].splitlines()]
            before = _last_step_before(rows)
            lost.append(before - (event["resumed_from_step"] or 0))
    return lost


def _last_step_before(rows: list[dict[str, Any]]) -> int:
    """The last step of the attempt that ended there."""
    return int(rows[-1]["step"]) if rows else 0
