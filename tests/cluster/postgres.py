"""PostgreSQL as docker/compose.yaml sets it up, from Debian's package. Needs root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import Host
from mlflow_server import eventually

USER, PASSWORD = "mlflow", "not-a-secret"


@contextmanager
def postgres(host: Host) -> Iterator[None]:
    """A server on ``host`` with an empty database, both called as its user."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    # PostgreSQL does not run as root, and pytest's folders are root's alone.
    folder = Path(tempfile.mkdtemp())
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password"):
        shutil.chown(path, "postgres")
    log, data = (folder / "log").open("wb"), folder / "data"

    def start(name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = ["runuser", "-u", "postgres", "--", str(programs / name), *arguments]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        return subprocess.Popen(host.inside(*command), stdout=log, stderr=log, env=environment, cwd="/")

    def succeeds(name: str, *arguments: str) -> bool:
        return start(name, *arguments).wait() == 0

    place = ["--host=127.0.0.1", f"--username={USER}"]
    options = [f"--pwfile={folder}/password", "--auth=scram-sha-256", f"--username={USER}"]
    assert succeeds("initdb", f"--pgdata={data}", *options), (folder / "log").read_text()
    server = start("postgres", "-D", str(data), "-h", "127.0.0.1", "-k", "")
    try:
        eventually("PostgreSQL is ready", lambda: succeeds("pg_isready", *place))
        assert succeeds("createdb", *place, USER), (folder / "log").read_text()
        yield
    finally:
        # Waits for all its processes, which runuser does not.
        succeeds("pg_ctl", "stop", f"--pgdata={data}", "--mode=fast", "--wait")
        server.terminate()
        server.wait()
        log.close()
        shutil.rmtree(folder)
