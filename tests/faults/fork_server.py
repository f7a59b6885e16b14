"""Forks the ranks of one life of a run after another from a process that has imported everything already.

A cold start of the program takes seconds of imports, a fork a tenth of one: that is what makes many deaths cheap. What
a life does then is what the command line does: `mypt_dist.cli.main`, and an interpreter that ends in its own way.

Each line on standard input is a request, each line on standard output its answer:

* ``{"ranks": [environment, …], "arguments": […], "log": path}``: the process ids. The arguments are those of ``mypt``,
  or with ``"script": true`` those of ``python``: a script's path, or ``-m`` and a module;
* ``{"wait": [process id, …], "seconds": 60}``: their exit codes, negative for a signal, null for what still runs.
"""

import gc
import importlib
import json
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import injections
import torch._dynamo
import torch.distributed.fsdp
import torch.nn.parallel.distributed  # noqa: F401 - all three are imported late otherwise, by every life again

import mypt_dist.cli.app  # noqa: F401
from mypt_dist.cli import main
from mypt_dist.run import build
from mypt_dist.run.provenance import code_version

ANSWERS = os.dup(1)
# What is imported may print.
os.dup2(2, 1)

ENDED: dict[int, int] = {}
"""Exit codes of the lives that were waited for."""


def serve() -> dict[str, Any] | None:
    """Answer requests until there are no more. In a child: returns what it is to be."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer: list[int | None] = ends(request["wait"], request["seconds"])
        else:
            answer = []
            for environment in request["ranks"]:
                pid = os.fork()
                if not pid:
                    return {**request, "environment": environment}
                # Numbers come back after some ten thousand processes.
                ENDED.pop(pid, None)
                answer.append(pid)
        os.write(ANSWERS, json.dumps(answer).encode() + b"\n")
    return None


def become(environment: Mapping[str, str], log: str) -> None:
    """A process with nothing of the server's but its modules."""
    os.setsid()
    os.close(ANSWERS)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(descriptor, number)
    os.environ.update(environment)
    injections.inject(environment.get("INJECT", ""))


def ends(pids: Sequence[int], seconds: float) -> list[int | None]:
    """How each process ended, as soon as all have, or what is known after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        for pid in set(pids) - ENDED.keys():
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                ENDED[pid] = os.waitstatus_to_exitcode(status)
        if ENDED.keys() >= set(pids) or time.monotonic() > deadline:
            return [ENDED.get(pid) for pid in pids]
        time.sleep(0.01)


def interpret(arguments: list[str]) -> None:
    """What ``python`` does with these arguments."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def prepare(modules: Sequence[str]) -> None:
    """Do beforehand what takes seconds and is the same in every life."""
    for name in modules:
        importlib.import_module(name)
    code_version()
    # Forecast and peak are told to people and change nothing of a run; the cold starts have theirs.
    build.memory_watch = lambda config, topology, device: None
    build.peak_flops = lambda device, precision: 1e12
    # Not to be looked through by every life that collects its garbage.
    gc.freeze()


if __name__ == "__main__":
    prepare(sys.argv[1:])
    life = serve()
    if life is None:
        raise SystemExit
    become(life["environment"], life["log"])
    if life.get("script"):
        interpret(life["arguments"])
    else:
        raise SystemExit(main(life["arguments"]))
