"""Forks the ranks of one life of a run after another from a process that has imported everything already.

A cold start of the program takes seconds of imports, a fork a tenth of one: that is what makes many deaths cheap. What
a life does then is what the command line does: `mypt_dist.cli.main`, and an interpreter that ends in its own way.

Each line on standard input is a request, each line on standard output its answer:

* ``{"ranks": [environment, …], "arguments": […], "log": path}``: the process ids;
* ``{"wait": [process id, …], "seconds": 60}``: their exit codes, negative for a signal, null for what still runs.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import injections
import torch._dynamo
import torch.distributed.fsdp
import torch.nn.parallel.distributed  # noqa: F401 - all three are imported late otherwise, by every life again

import mypt_dist.cli.app  # noqa: F401
from mypt_dist.cli import main
from mypt_dist.run import build
from mypt_dist.run.provenance import code_version

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
                answer.append(pid)
        os.write(1, json.dumps(answer).encode() + b"\n")
    return None


def become(environment: Mapping[str, str], log: str) -> None:
    """A process with nothing of the server's but its modules."""
    os.setsid()
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


def prepare() -> None:
    """Do beforehand what takes seconds and is the same in every life."""
    code_version()
    # Forecast and peak are told to people and change nothing of a run; the cold starts have theirs.
    build.memory_watch = lambda config, topology, device: None
    build.peak_flops = lambda device, precision: 1e12
    # Not to be looked through by every life that collects its garbage.
    gc.freeze()


if __name__ == "__main__":
    prepare()
    life = serve()
    if life is None:
        raise SystemExit
    become(life["environment"], life["log"])
    raise SystemExit(main(life["arguments"]))
