"""Containers without a Docker engine: a chroot in namespaces of its own, read-only, started as its image says.

Needs root and util-linux.
"""

import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from hosts import Host
from images import Image

WRITABLE = ("", "runs", "data", ".cache")
"""Folders of /workspace that everybody may write."""


NAMES = "localhost mlflow postgres"
"""Of all containers, since those on one host share their address."""


@dataclass(frozen=True)
class Options:
    """Those of `docker run`."""

    volumes: Mapping[str, Path]
    """Path in the container, folder of this machine."""
    user: str = ""
    """uid:gid; the image's own if empty."""
    environment: Mapping[str, str] = field(default_factory=dict)
    tmpfs: Sequence[str] = ()


class Container:
    """One that runs, with the network and the name of ``host``. Its output is in ``log``."""

    def __init__(self, image: Image, host: Host, command: Sequence[str], options: Options, log: Path) -> None:
        self._image, self._options, self._log = image, options, log
        namespaces = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation", "private"]
        program = self._inside([*image.config["Entrypoint"], *(command or image.config["Cmd"])])
        start = host.inside(*namespaces, "sh", "-ec", f'{self._mounts()}\nexec "$@"', "sh", *program)
        with log.open("ab") as output:
            self._process = subprocess.Popen(start, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

    def execute(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """`docker exec`, to its end."""
        enter = ["nsenter", "--target", str(self._first.pid), "--mount", "--pid", "--ipc", "--net", "--uts"]
        return subprocess.run([*enter, *self._inside(command)], capture_output=True, text=True, check=False)

    def healthy(self, test: Sequence[str] = ()) -> bool:
        """What the image's health check says, or the ``test`` of a compose file."""
        kind, *command = test or self._image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        assert self._process.poll() is None, self.output
        return bool(self._children()) and self.execute(*command).returncode == 0

    def wait(self) -> int:
        """For its exit code."""
        return self._process.wait(300)

    def stop(self) -> int:
        """`docker stop`: SIGTERM to process 1. Returns the exit code."""
        self._first.send_signal(signal.SIGTERM)
        return self.wait()

    def pause(self, *, resume: bool = False) -> None:
        """`docker pause`, and `unpause`."""
        for process in self._first.children(recursive=True):
            process.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def _first(self) -> psutil.Process:
        """The container's process 1."""
        return self._children()[0]

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children()

    def _inside(self, command: Sequence[str]) -> list[str]:
        environment = {**self._image.environment, **self._options.environment}
        settings = [f"{name}={value}" for name, value in environment.items()]
        user = self._options.user or self._image.config["User"]
        chroot = ["chroot", f"--userspec={user}", "--groups=", str(self._image.root)]
        return [*chroot, "env", "-i", "-C", self._image.config["WorkingDir"], *settings, *command]

    def _mounts(self) -> str:
        """What Docker mounts, its 64 MiB of shared memory among it, and the places that it makes for it."""
        root = shlex.quote(str(self._image.root))
        volumes = self._options.volumes
        return "\n".join(
            [
                *(f"mkdir -p {root}{path}" for path in volumes),
                f"mount --bind {root} {root}",
                f"mount -o remount,bind,ro {root}",
                f"mount -t proc proc {root}/proc",
                f"mount --rbind /dev {root}/dev",
                f"mount -t tmpfs -o size=64m,mode=1777 shm {root}/dev/shm",
                f'hosts=$(mktemp); echo "127.0.0.1 {NAMES} $(hostname)" > "$hosts"; chmod 644 "$hosts"',
                f'mount --bind "$hosts" {root}/etc/hosts; rm "$hosts"',
                *(f"mount -t tmpfs tmpfs {root}{path}" for path in self._options.tmpfs),
                *(f"mount --bind {shlex.quote(str(folder))} {root}{path}" for path, folder in volumes.items()),
            ]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All others of the container end with its process 1, which a change of user keeps from ending with its parent.
        for first in self._children() if self._process.poll() is None else []:
            first.kill()
        self._process.wait()


def workspace(folder: Path) -> Path:
    """Make ``folder`` a volume for /workspace as Docker fills it from the image."""
    for name in WRITABLE:
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o1777)
    return folder
