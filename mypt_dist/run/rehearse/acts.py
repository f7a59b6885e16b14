"""The three starts of a rehearsal: one that is told to stop, one that loses a node, and one on fewer ranks.

An act is played when the first stage asks for what happened in it, and only once.
"""

import math
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil

from mypt_dist.checkpoint import Manifest, open_checkpoint
from mypt_dist.errors import CheckpointError
from mypt_dist.run.config import RunConfig
from mypt_dist.run.rehearse.household import kill, members, trainers
from mypt_dist.run.rehearse.nodes import Launched, VirtualNode, wait
from mypt_dist.run.rehearse.scale import EVAL_EVERY, SAVE_EVERY, World
from mypt_dist.tracking.journal import METRICS, read_events, read_metrics

START_S, STEPS_S, END_S = 300.0, 300.0, 150.0
"""Seconds for ranks to connect, to make their steps, to end. Far more than they take on a machine that is busy."""
LATE_S = 20.0
"""Seconds for the other nodes to say why, after one has ended."""
ENOUGH_STEPS = max(2 * SAVE_EVERY, EVAL_EVERY) + 1
MORE_STEPS = 3
"""Steps after a resume."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What all acts share."""

    config: RunConfig
    """The small one."""
    nodes: Sequence[VirtualNode]
    world: World
    smaller: World | None
    target: str
    replicas: int | None
    token: str

    @property
    def run(self) -> Path:
        """The run's folder, as node 0 sees it."""
        return self.nodes[0].run


@dataclass
class Played:
    """What happened in an act."""

    phases: dict[str, float] = field(default_factory=dict)
    """Seconds that each phase took. One that is missing was not reached."""
    outputs: Mapping[int, str] = field(default_factory=dict)
    codes: Mapping[int, int | None] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    resumed_from: int | None = None
    newest: Manifest | None = None
    """Of the newest checkpoint at the end."""
    left: int = 0
    """Processes that were still there and had to be killed."""

    def reached(self, phase: str) -> bool:
        """Whether a phase came to its end."""
        return phase in self.phases

    @property
    def losses(self) -> dict[int, float | None]:
        """By step."""
        return {row["step"]: row["train/loss"] for row in self.rows if "train/loss" in row}


class Acts:
    """Plays them below the folders of the scene's nodes."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @cached_property
    def first(self) -> Played:
        """A fresh start on all ranks; after some steps, saves and an evaluation one node is sent a SIGTERM."""
        act = _Act(self.scene, self.scene.world, "first")
        if act.connects() and act.advances(ENOUGH_STEPS) and act.saves(2):
            last = max(act.launched.processes)
            act.launched.signal(last, signal.SIGTERM)
            act.ends("sigterm")
        return act.over()

    @cached_property
    def killed(self) -> Played:
        """All ranks resume; then all processes of the last node, or of the last rank of a single one, are killed."""
        _ = self.first
        act = _Act(self.scene, self.scene.world, "killed")
        if act.connects() and act.advances(MORE_STEPS):
            act.loses_a_node()
            act.ends("kill")
        return act.over()

    @property
    def interrupted(self) -> Played:
        """The act before the last one. A single rank has no others that could outlive it."""
        return self.killed if self.scene.world.ranks > 1 else self.first

    @cached_property
    def resumed(self) -> Played:
        """Fewer ranks go on for some steps and end by themselves."""
        before = self.interrupted.newest
        world = self.scene.smaller or self.scene.world
        stop = (before.step if before else 0) + MORE_STEPS
        act = _Act(self.scene, world, "resumed", f"train.stop_after={stop}")
        if act.connects():
            act.ends("resume", START_S)
        return act.over()


class _Act:
    """One start of the run, and what is done to it."""

    def __init__(self, scene: Scene, world: World, name: str, *overrides: str) -> None:
        self._scene, self._played = scene, Played()
        self._events_before = len(read_events(scene.run)) if scene.run.exists() else 0
        self.launched = Launched()
        self._since = time.monotonic()
        port = free_port()
        for node in scene.nodes[: world.nodes]:
            self.launched.start(node, launch_arguments(scene, world, node, port) + list(overrides), f"{name}.log")

    def connects(self) -> bool:
        """Wait until rank 0 notes that the run has begun: it does when all ranks have built their model."""
        if not self._waits(lambda: any(e["kind"] == "start" for e in self._events()), START_S):
            return False
        start = next(event for event in self._events() if event["kind"] == "start")
        self._played.resumed_from = start["resumed_from_step"]
        return self._done("launch")

    def advances(self, steps: int) -> bool:
        """Wait for ``steps`` steps more than those that the act began with."""
        goal = (self._played.resumed_from or 0) + steps
        return self._waits(lambda: newest_step(self._scene.run) >= goal, STEPS_S) and self._done("steps")

    def saves(self, times: int) -> bool:
        """Wait until so many checkpoints are committed."""

        def saved() -> bool:
            return len([event for event in self._events() if event["kind"] == "checkpoint"]) >= times

        return self._waits(saved, STEPS_S) and self._done("save")

    def loses_a_node(self) -> None:
        """Kill what runs on the last node; on a single one the last rank."""
        scene = self._scene
        if scene.world.nodes > 1:
            number = scene.nodes[-1].number
            kill(lambda: members(scene.token, number))
        else:
            ranks = trainers(scene.token)
            ranks[max(ranks)].kill()
        self._since = time.monotonic()

    def ends(self, phase: str, seconds: float = END_S) -> bool:
        """Wait until all launchers have ended."""
        return wait(self.launched.ended, seconds) and self._done(phase)

    def over(self) -> Played:
        """Whatever still runs is killed; what happened is read."""
        scene, played = self._scene, self._played
        if self.launched.failed():
            wait(self.launched.ended, LATE_S)
        if self.launched.ended():
            wait(lambda: not strays(scene.token), LATE_S)
        played.codes, played.outputs = self.launched.codes(), self.launched.outputs()
        played.left = kill(lambda: strays(scene.token))
        for process in self.launched.processes.values():
            process.wait()
        played.events = self._events()
        played.rows = read_metrics(scene.run) if (scene.run / METRICS).exists() else ()
        played.newest = newest_manifest(scene.run)
        return played

    def _events(self) -> list[dict[str, Any]]:
        run = self._scene.run
        return read_events(run)[self._events_before :] if run.exists() else []

    def _waits(self, condition: Callable[[], bool], seconds: float) -> bool:
        wait(lambda: condition() or self.launched.failed() or self.launched.ended(), seconds)
        return bool(condition())

    def _done(self, phase: str) -> Literal[True]:
        now = time.monotonic()
        self._played.phases[phase] = now - self._since
        self._since = now
        return True


def launch_arguments(scene: Scene, world: World, node: VirtualNode, port: int) -> list[str]:
    """The command of one node, as it would be given on the cluster."""
    several = ["--nodes", str(world.nodes), "--node-rank", str(node.node_rank), "--address", "127.0.0.1"]
    place = [*several, "--port", str(port)] if world.nodes > 1 else ["--nodes", "1"]
    target, replicas = sharing(scene, world)
    copies = ["--replicas", str(replicas)] if replicas else []
    # Its nodes are virtual, whatever a scheduler has allotted to the rehearsal.
    return ["launch", target, "run.json", "--plain", "--ranks", str(world.ranks), "--cpu", *copies, *place]


def sharing(scene: Scene, world: World) -> tuple[str, int | None]:
    """Target and replicas on ``world``. Without ranks for several replicas of several shards, hsdp goes on as fsdp2."""
    if not scene.replicas:
        return scene.target, None
    replicas = math.gcd(scene.replicas, world.ranks)
    return (scene.target, replicas) if world == scene.world or 1 < replicas < world.ranks else ("fsdp2", None)


def strays(token: str) -> list[psutil.Process]:
    """What an act left behind. A tracker's sender may outlive its run for a while: it ends by itself."""
    return [process for process in members(token) if not _sends(process)]


def newest_step(run: Path) -> int:
    """The last step that was reported."""
    rows = read_metrics(run) if (run / METRICS).exists() else []
    return int(rows[-1]["step"]) if rows else 0


def newest_manifest(run: Path) -> Manifest | None:
    """Of the newest valid checkpoint."""
    try:
        with open_checkpoint(run) as checkpoint:
            return checkpoint.manifest
    except CheckpointError:
        return None


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _sends(process: psutil.Process) -> bool:
    try:
        return "mypt_dist.tracking.mlflow_sender" in process.cmdline()
    except psutil.Error:
        return False
