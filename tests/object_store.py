"""An S3 server on this machine, for tests that need a real one."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class ObjectStore:
    """Serves until it is closed. What it keeps is lost then."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        self.environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **CREDENTIALS}
        _wait_for_port(port)

    def bucket(self, name: str) -> str:
        """The URL of a new bucket."""
        self.system().mkdir(name)
        return f"s3://{name}"

    def system(self) -> Any:
        """A client of its own."""
        import s3fs

        endpoint = self.environment["AWS_ENDPOINT_URL"]
        return s3fs.S3FileSystem(endpoint_url=endpoint, key="test", secret="test", skip_instance_cache=True)

    def requests(self, *words: str) -> int:
        """Lines of its log that hold all ``words``."""
        return sum(all(word in line for word in words) for line in self._log.read_text().splitlines())

    def close(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return
