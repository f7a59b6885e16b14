"""What a container of the image starts: tell what the container lacks, then become the command that was asked for.

``train`` becomes `mypt train`, or `mypt launch` on all GPUs; ``shell`` becomes bash; other sub-commands of `mypt` are
executed as such, and so is any other program.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

REQUIRED_GPUS = "MYPT_REQUIRE_GPU"
"""The variable that says how many GPUs must be visible at least: else a run would compute on the CPU without a word."""
TARGET = "MYPT_TARGET"
"""The variable that names what `mypt launch` starts on several GPUs."""
WRITES = {"train": "runs", "launch": "runs", "quickstart": "runs", "rehearse": "runs", "data": "data"}
"""Sub-commands and the folder that they write into, relative to the working directory."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Tell in a line each what may go wrong, and become the command. Returns 2 where required GPUs are missing."""
    from mypt_dist.launch.supervision.gpus import visible_gpus
    from mypt_dist.run.doctor.machine import shared_memory_size

    gpus = visible_gpus(environ) or 0
    missing = list(gpu_problems(arguments, environ, gpus))
    lacks = [
        *missing,
        *folder_problems(arguments, Path()),
        *shared_memory_problems(arguments, shared_memory_size(), gpus),
    ]
    for problem in lacks:
        print(f"mypt: {problem}", file=sys.stderr)
    if missing:
        return 2
    program = command(arguments, environ, gpus)
    os.execvpe(program[0], program, {**environ, **temporary_folder(environ)})


def command(arguments: Sequence[str], environ: Mapping[str, str], gpus: int) -> list[str]:
    """The program and its arguments."""
    name, *rest = arguments or ["--help"]
    if name == "train" and gpus > 1:
        # Supervised: a launcher alone ends with 1 whatever its ranks end with.
        return ["mypt", "launch", environ.get(TARGET) or "ddp", *rest, "--ranks", str(gpus), "--supervise"]
    if name == "shell":
        return ["bash", *rest]
    if name not in _sub_commands() and shutil.which(name, path=environ.get("PATH")):
        return [name, *rest]
    # What is no program either goes to mypt, which names the nearest sub-command.
    return ["mypt", name, *rest]


def folder_problems(arguments: Sequence[str], workspace: Path) -> Iterator[str]:
    """What cannot be written although the command writes there, unless the run file names other folders."""
    written = WRITES.get(arguments[0]) if arguments else None
    if written is None or (written == "data" and arguments[1:2] != ["prepare"]):
        return
    for folder in (workspace / written, workspace / ".cache"):
        if not os.access(_nearest(folder), os.W_OK | os.X_OK):
            yield (
                f"{folder.absolute()} cannot be written by uid {os.getuid()}: mount a folder that belongs to it, or "
                "start with --user UID:GID of the folder's owner"
            )


def gpu_problems(arguments: Sequence[str], environ: Mapping[str, str], gpus: int) -> Iterator[str]:
    """Whether fewer GPUs are visible than `MYPT_REQUIRE_GPU` asks for. Looking around needs none."""
    wanted = environ.get(REQUIRED_GPUS) or "0"
    if not wanted.isdigit():
        yield f"{REQUIRED_GPUS}={wanted}: give the least number of GPUs, as 1"
    elif gpus < int(wanted) and _trains(arguments):
        yield (
            f"{gpus} GPUs are visible, {REQUIRED_GPUS} asks for {wanted}: start with --gpus all, on a host that has "
            "NVIDIA's driver and container toolkit"
        )


def shared_memory_problems(arguments: Sequence[str], size: int | None, gpus: int) -> Iterator[str]:
    """Whether /dev/shm of ``size`` bytes is as small as Docker makes it, which is too little for several GPUs."""
    from mypt_dist.run.doctor.machine import shared_memory

    result = shared_memory(size, gpus)
    if _trains(arguments) and gpus > 1 and result.status in ("warn", "fail"):
        yield f"/dev/shm: {result.found}: {result.advice}"


def temporary_folder(environ: Mapping[str, str]) -> dict[str, str]:
    """``TMPDIR`` in the cache where /tmp cannot be written, as under a read-only root."""
    if "TMPDIR" in environ or os.access("/tmp", os.W_OK):
        return {}
    folder = Path(environ.get("XDG_CACHE_HOME") or ".cache").absolute() / "tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {"TMPDIR": str(folder)}


def _trains(arguments: Sequence[str]) -> bool:
    return arguments[:1] in (["train"], ["launch"])


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _sub_commands() -> set[str | None]:
    from mypt_dist.cli.app import app

    return {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
