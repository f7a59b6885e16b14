"""Virtual nodes: each with a folder, a home, an environment and a way to the run's folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mypt_dist
from mypt_dist.launch.topology import EXPECTED_RANKS
from mypt_dist.run.config import RunConfig
from mypt_dist.run.rehearse.checks.launching import OF_A_RANK
from mypt_dist.run.rehearse.facts import READY, NodeFacts, parse_facts
from mypt_dist.run.rehearse.household import MARK, mark
from mypt_dist.run.rehearse.scale import OUT, World

POLL_S = 0.1
FACTS_S = 120.0
"""Seconds that a node has for its facts. It loads no torch, but the machine may be busy."""


@dataclass(frozen=True, slots=True)
class VirtualNode:
    """One machine of the cluster that is not there yet."""

    number: int
    folder: Path
    """Where its processes work. `run.json` and the way to the run's folder are in it."""
    environ: Mapping[str, str]
    node_rank: int
    world: World
    """These two as it is told."""

    @property
    def run(self) -> Path:
        """The run's folder, as this node sees it."""
        return self.folder / OUT


def make_nodes(root: Path, config: RunConfig, world: World, token: str) -> list[VirtualNode]:
    """Lay out the nodes' folders below ``root``. All see one folder of the run, each through a path of its own."""
    shared = root / "shared"
    shared.mkdir(parents=True)
    return [_node(root / f"node-{number}", shared, config, (number, world, token)) for number in range(world.nodes)]


def _node(folder: Path, shared: Path, config: RunConfig, told: tuple[int, World, str]) -> VirtualNode:
    number, world, token = told
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / OUT.parent).symlink_to(shared, target_is_directory=True)
    content = config.model_dump(mode="json", exclude={"about", "extends"})
    (folder / "run.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return VirtualNode(number, folder, node_environ(os.environ, folder, mark(token, number)), number, world)


def node_environ(environ: Mapping[str, str], folder: Path, marked: str) -> dict[str, str]:
    """The environment of a node: this one's, without what a launcher says, with the node's own places."""
    own = {name: value for name, value in environ.items() if name not in (*OF_A_RANK, EXPECTED_RANKS)}
    return {
        # One thread: the nodes share the cores of one machine.
        "OMP_NUM_THREADS": "1",
        **own,
        **_python_path(own),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "HOSTNAME": folder.name,
        MARK: marked,
    }


def _python_path(environ: Mapping[str, str]) -> dict[str, str]:
    """A checkout from which the package runs is found from the node's folder too."""
    above = Path(mypt_dist.__file__).parents[1]
    if not (above / "pyproject.toml").is_file():
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(above), environ.get("PYTHONPATH")]))}


@dataclass
class Launched:
    """The launchers of one start, one on each node that takes part."""

    processes: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    logs: dict[int, Path] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def start(self, node: VirtualNode, arguments: Sequence[str], log: str) -> None:
        """Start `mypt` with ``arguments`` on ``node``; what it says goes into a file in the node's folder."""
        path = node.folder / log
        with path.open("wb") as output:
            self.processes[node.number] = subprocess.Popen(
                [sys.executable, "-m", "mypt_dist", *arguments],
                cwd=node.folder,
                env=dict(node.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.logs[node.number] = path

    def ended(self) -> bool:
        """Whether all launchers have."""
        return all(process.poll() is not None for process in self.processes.values())

    def failed(self) -> bool:
        """Whether one ended with anything but success."""
        return any(process.poll() not in (None, 0) for process in self.processes.values())

    def codes(self) -> dict[int, int | None]:
        """Exit codes by node; null: it still runs."""
        return {number: process.poll() for number, process in self.processes.items()}

    def outputs(self) -> dict[int, str]:
        """What each node has said so far."""
        return {number: path.read_text(errors="replace") for number, path in self.logs.items()}

    def signal(self, node: int, number: int) -> None:
        """Send a signal to the launcher of ``node``, as a scheduler does."""
        self.processes[node].send_signal(number)


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``condition`` holds; whether it did in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(POLL_S)
    return condition()


def ask_nodes(nodes: Sequence[VirtualNode]) -> tuple[list[NodeFacts], dict[int, str]]:
    """What every node says of itself, and what went wrong on those that could not.

    All leave their sign in the run's folder before any looks for the others'.
    """
    asked = {node.number: _ask(node) for node in nodes}
    ready = {number: _line(process) == READY for number, process in asked.items()}
    facts, problems = [], {}
    for number, process in asked.items():
        try:
            out, err = process.communicate("look\n", timeout=FACTS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        if ready[number] and process.returncode == 0:
            facts.append(parse_facts(out.strip()))
        else:
            problems[number] = " ".join(err.split())[-300:] or f"exit code {process.returncode}"
    return facts, problems


def _ask(node: VirtualNode) -> "subprocess.Popen[str]":
    told = (node.number, node.node_rank, node.world.nodes, node.world.ranks)
    command = [sys.executable, "-m", "mypt_dist.run.rehearse.facts", "run.json", *map(str, told)]
    return subprocess.Popen(
        command,
        cwd=node.folder,
        env=dict(node.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None, "it is a pipe"
    return process.stdout.readline().strip()
