"""What a process that has confined itself can still do: nothing but compute, and say so."""

import json
import subprocess
import sys

import pytest

ATTEMPTS = """
import json, os, resource, socket, subprocess, sys, threading
from mypt_dist.interchange.torch_files import confinement

left = confinement.leave_network()
with open("/etc/passwd") as file:
    file.read()
confinement.confine()
tried = {
    "read a file": lambda: open("/etc/passwd").read(),
    "write a file": lambda: open("/tmp/mypt-must-not-exist", "w"),
    "open beneath Python's own files": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "copy a descriptor": lambda: os.dup(1),
    "make a pipe": os.pipe,
    "make a socket": socket.socket,
    "start a program": lambda: subprocess.run(["true"]),
    "run a command": lambda: os.system("true"),
    "fork": os.fork,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "remove": lambda: os.remove("/tmp/mypt-must-not-exist"),
    "rename": lambda: os.rename("/tmp/a", "/tmp/b"),
    "load a module": lambda: __import__("sqlite3"),
    "run a text": lambda: eval("1"),
    "end another process": lambda: os.kill(os.getppid(), 0),
    "lift a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "fill memory": lambda: bytearray(1 << 33),
}
outcomes = {}
for name, attempt in tried.items():
    try:
        outcomes[name] = repr(attempt())
    except (OSError, MemoryError, PermissionError) as error:
        outcomes[name] = None
limits = {
    name: resource.getrlimit(getattr(resource, name))
    for name in ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE")
}
sys.stdout.write(json.dumps({"outcomes": outcomes, "limits": limits, "user": os.geteuid()}))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", ATTEMPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, object]] = json.loads(done.stdout)
    return told


def test_nothing_that_reaches_out_succeeds(said: dict[str, dict[str, object]]) -> None:
    assert {name: outcome for name, outcome in said["outcomes"].items() if outcome is not None} == {}


def test_the_kernel_holds_it_to_that_whatever_python_does(said: dict[str, dict[str, object]]) -> None:
    assert set(map(tuple, said["limits"].values())) == {(0, 0)}  # type: ignore[call-overload]
    assert said["user"] != 0
