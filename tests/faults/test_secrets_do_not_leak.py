"""Secrets in the environment, in the tracker's address and in a setting: nothing that a run leaves has them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from counted import count

CANARY = "CaNaRy0123456789"
VARIABLES = (
    "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_SECRET",
    "GITHUB_TOKEN", "SSH_PRIVATE_KEY",
)  # fmt: skip


class StubMlflow(BaseHTTPRequestHandler):
    """Answers as much as a run needs, and remembers what it was told but for the header made for secrets."""

    told: list[str] = []

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def log_message(self, *arguments: Any) -> None:
        """Silent."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        headers = {name: value for name, value in self.headers.items() if name.lower() != "authorization"}
        StubMlflow.told.append(f"{self.path} {headers} {body}")
        info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "1", "status": "RUNNING", "start_time": 1}
        run = {"info": {**info, "artifact_uri": "mlflow-artifacts:/1/r1", "lifecycle_stage": "active"}, "data": {}}
        experiment = {"experiment_id": "1", "name": "mypt", "lifecycle_stage": "active", "artifact_location": "x"}
        answer = json.dumps({"run": run, "experiment": experiment, "experiment_id": "1", "runs": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def server() -> Iterator[str]:
    StubMlflow.told = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), StubMlflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment(address: str = "127.0.0.1:1") -> dict[str, str]:
    secrets = {name: f"{CANARY}{number}" for number, name in enumerate(VARIABLES)}
    return {**os.environ, **secrets, "MLFLOW_TRACKING_URI": f"http://me:{CANARY}@{address}/"}


def train(run_file: Path, *overrides: str, wrapper: str = "", address: str = "127.0.0.1:1") -> str:
    """Everything a run said."""
    program = ["-c", wrapper] if wrapper else ["-m", "mypt_dist"]
    command = [sys.executable, *program, "train", str(run_file), *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=250, env=environment(address), cwd=run_file.parent
    )
    return done.stdout + done.stderr


def leaks(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path.relative_to(folder)) for path in files if CANARY.encode() in path.read_bytes()]


SETTINGS = (f"about.description=made with {CANARY}0 from https://me:{CANARY}@host/x?token={CANARY}#f",)


def test_nothing_a_run_leaves_has_a_secret_in_it(run_mapping: dict[str, Any], tmp_path: Path, server: str) -> None:
    run_mapping["trackers"] = [{"type": "mlflow", "experiment": "mypt", "flush_timeout_s": 60}]
    (tmp_path / "run.json").write_text(json.dumps(run_mapping))
    output = train(tmp_path / "run.json", SETTINGS[0], address=server)
    assert "trained to step 6" in output, output
    assert CANARY not in output
    assert leaks(tmp_path / "run") == []
    assert any("/runs/log-batch" in told for told in StubMlflow.told), "the numbers were sent"
    assert [told[:200] for told in StubMlflow.told if CANARY in told] == []
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    count(
        "secrets in environment, address and settings",
        "in no file, line of output or request body that a run leaves",
        secrets=len(VARIABLES) + 3,
        files=len(files),
        requests=len(StubMlflow.told),
        leaked=0,
    )


WITHOUT_SAFEGUARD = """
import sys
import mypt_dist.redact as redact
redact.scrub = redact.without_secrets = redact.without_url_secrets = lambda value: value
from mypt_dist.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_twin_without_scrubbing_they_leak(run_file: Path, tmp_path: Path) -> None:
    train(run_file, SETTINGS[0], wrapper=WITHOUT_SAFEGUARD)
    found = leaks(tmp_path / "run")
    assert "run.json" in found
    assert any(name.endswith("manifest.json") for name in found)


@pytest.mark.parametrize(
    "override",
    [
        f"data.path=https://me:{CANARY}@host/data",
        f"data.path=/nowhere?token={CANARY}",
        f"train.steps={CANARY}0",
        f'trackers=[{{"type":"mlflow","uri":"http://me:{CANARY}@host"}}]',
        f'trackers=[{{"type":"mlflow","uri":"http://host/?api_key={CANARY}"}}]',
        f"model.type={CANARY}3",
    ],
)
def test_no_error_message_repeats_a_secret(run_file: Path, override: str) -> None:
    output = train(run_file, override)
    assert output.startswith("mypt: "), output
    assert CANARY not in output


def test_no_traceback_repeats_a_secret(run_file: Path) -> None:
    broken = f"""
import sys
import mypt_dist.run.config as config
def load(*arguments):
    raise RuntimeError("cannot reach http://me:{CANARY}@host")
config.RunConfig.load = load
from mypt_dist.cli import main
main(sys.argv[1:])
"""
    output = train(run_file, wrapper=broken)
    assert "RuntimeError: cannot reach http://host" in output
    assert CANARY not in output.replace(broken, "")
