"""The stages of the play: each looks at what happened in an act and says whether that is as it must be."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from mypt_dist.checkpoint import Manifest, verify_checkpoint
from mypt_dist.errors import CheckpointError, MyptError
from mypt_dist.run.rehearse.acts import END_S, MORE_STEPS, START_S, Acts, Played
from mypt_dist.run.rehearse.checks import node_findings
from mypt_dist.run.rehearse.diagnosis import diagnose
from mypt_dist.run.rehearse.findings import Finding
from mypt_dist.run.rehearse.nodes import ask_nodes
from mypt_dist.run.rehearse.order import order_hash
from mypt_dist.run.rehearse.report import Outcome, failed, passed, skipped
from mypt_dist.tracking.mlflow_tracker import MlflowConfig

PROMPT = "The "
NEW_TOKENS = 8


def nodes(acts: Acts) -> Outcome:
    """Do all nodes see the same code, run file, data, clock and run's folder?"""
    facts, problems = ask_nodes(acts.scene.nodes)
    found = [
        Finding(f"node {number}", text, "it cannot start a rank either", "correct it on that node")
        for number, text in problems.items()
    ]
    found += node_findings(facts)
    if any(finding.severity == "error" for finding in found):
        return failed("they do not agree", *found)
    return passed("code, run file, data and the run's folder are the same on all", *found)


def launch(acts: Acts) -> Outcome:
    """Do all ranks connect to a world of the promised size?"""
    act, ranks = acts.first, acts.scene.world.ranks
    if not act.reached("launch"):
        return failed("the ranks did not start", diagnose(act.outputs, acts.scene.target))
    start = next(event for event in act.events if event["kind"] == "start")
    size, engine = start["tags"]["mypt.world_size"], start["tags"]["mypt.engine"]
    if size != str(ranks):
        return failed(
            f"{size} ranks connected",
            Finding(acts.scene.target, f"{size} ranks instead of {ranks}", "a smaller world trains", "mypt launch"),
        )
    return passed(f"{acts.scene.world}, {engine}")


def steps(acts: Acts) -> Outcome:
    """Is the loss finite, does it move, and are the samples those of the pure order?"""
    act = acts.first
    losses = act.losses
    strange = [step for step, loss in losses.items() if loss is None or not math.isfinite(loss)]
    values = [loss for loss in losses.values() if loss is not None]
    why, remedy = "the run learns nothing like this", "lower optimizer.lr, or lengthen train.schedule.warmup"
    if strange:
        return failed(f"loss of step {strange[0]} is not finite", Finding("optimizer.lr", "NaN loss", why, remedy))
    if not act.reached("steps"):
        return _not_reached(act, "steps", "launch", acts)
    if len(set(values)) < 2:
        return failed("the loss does not move", Finding("optimizer.lr", "the same loss at every step", why, remedy))
    wrong = _wrong_order(act.newest, acts)
    if wrong:
        return failed("the order is not the promised one", wrong)
    direction = "falls" if values[-1] < values[0] else "changes"
    return passed(f"loss {direction}, {values[0]:.3f} to {values[-1]:.3f} in {len(values)} steps; order is exact")


def save(acts: Acts) -> Outcome:
    """Are checkpoints committed, whole and as they were written?"""
    act = acts.first
    if not act.reached("save"):
        return _not_reached(act, "save", "steps", acts)
    committed = [event["step"] for event in act.events if event["kind"] == "checkpoint"]
    problems = _problems(acts)
    if problems:
        return failed(
            "a checkpoint is damaged",
            Finding("out", problems[0], "it can not be resumed from", f"mypt ckpt verify {acts.scene.run}"),
        )
    return passed(f"{len(committed)} committed, every byte of those kept verified")


def tracker(acts: Acts) -> Outcome:
    """Does a run whose tracker is down go on, with everything in its journal?"""
    if not any(isinstance(config, MlflowConfig) for config in acts.scene.config.trackers):
        return skipped("the run has no tracker")
    act = acts.first
    if not act.reached("steps"):
        return _not_reached(act, "steps", "launch", acts)
    gap = _gap(act)
    kinds = [event["kind"] for event in act.events]
    if gap is not None or "finish" not in kinds:
        found = f"step {gap} is missing" if gap is not None else "the end is missing"
        why = "what is not in the journal can not be sent later"
        return failed("the journal is not complete", Finding("metrics.jsonl", found, why, "look at the disk of out"))
    return passed(f"MLflow unreachable: {len(act.losses)} steps all in the journal, for mypt runs sync")


def sigterm(acts: Acts) -> Outcome:
    """Do all ranks stop at one step, with a checkpoint, when one node is told to end?"""
    act = acts.first
    if not act.reached("save"):
        return _not_reached(act, "sigterm", "save", acts)
    why, remedy = "a preempted job would lose its work", "give the job more time between SIGTERM and SIGKILL"
    if not act.reached("sigterm"):
        found = f"ranks still ran {END_S:.0f} s after the signal"
        return failed(found, Finding(acts.scene.target, found, why, remedy))
    end = next((event for event in act.events if event["kind"] == "finish"), {})
    last, saved = max(act.losses, default=0), act.newest.step if act.newest else None
    if end.get("status") != "preempted" or saved != last:
        found = f"ended as {end.get('status', 'nothing')} at step {last}, the newest checkpoint is of {saved}"
        return failed(found, Finding(acts.scene.target, found, why, remedy))
    return passed(f"all stopped at step {last}, saved")


def kill(acts: Acts) -> Outcome:
    """Do the others end by themselves when a node dies?"""
    scene = acts.scene
    if scene.world.ranks == 1:
        return skipped("a single rank has no others")
    act = acts.killed
    if not act.reached("steps"):
        return _not_reached(act, "kill", "steps", acts)
    why, remedy = "machines that are paid for would wait for a dead one", "end the job when one node ends (srun -K)"
    if not act.reached("kill") or act.left:
        found = f"{act.left} processes still there {END_S:.0f} s after the other node died"
        return failed(found, Finding(scene.target, found, why, remedy))
    bad = _problems(acts)
    if bad:
        return failed("a checkpoint is damaged", Finding("out", bad[0], "the node's death cost work", "report it"))
    dead = f"node {scene.nodes[-1].number}" if scene.world.nodes > 1 else f"rank {scene.world.ranks - 1}"
    lost = max(act.losses, default=0) - (act.newest.step if act.newest else 0)
    return passed(f"{dead} killed: the others ended{_how(act)}; {lost} steps lost, checkpoints whole")


def resume(acts: Acts) -> Outcome:
    """Does the run go on with fewer ranks, in the exact order?"""
    scene, before, act = acts.scene, acts.interrupted.newest, acts.resumed
    world = scene.smaller or scene.world
    if before is None:
        return skipped("there is no checkpoint to resume from")
    if not act.reached("resume") or act.newest is None or any(act.codes.values()):
        return failed("the run did not go on", diagnose(act.outputs, scene.target))
    if act.resumed_from != before.step or act.newest.step != before.step + MORE_STEPS:
        found = f"went from step {act.resumed_from} to {act.newest.step}, not from {before.step}"
        return failed(found, Finding("out", found, "work is done twice, or left out", "report it"))
    wrong = _wrong_order(act.newest, acts)
    if wrong:
        return failed("the order is not the promised one", wrong)
    fewer = f"{world.ranks} of {scene.world.ranks} ranks" if scene.smaller else "as many ranks"
    return passed(f"{fewer} went on at step {before.step} to {act.newest.step}; order is exact")


def generate(acts: Acts) -> Outcome:
    """Can one process load the last checkpoint and continue a text?"""
    node = acts.scene.nodes[0]
    last = acts.resumed.newest
    if last is None:
        return skipped("there is no checkpoint to load")
    command = [sys.executable, "-m", "mypt_dist", "generate", "--run", str(node.run), "--prompt", PROMPT]
    command += ["--max-new-tokens", str(NEW_TOKENS), "--temperature", "0"]
    try:
        done = subprocess.run(
            command, cwd=node.folder, env=dict(node.environ), capture_output=True, timeout=START_S, check=False
        )
    except subprocess.TimeoutExpired:
        return failed("no text in time", Finding("generate", "no text", "the model can not be used", "report it"))
    if done.returncode or not done.stdout.startswith(PROMPT.encode()):
        outputs = {node.number: done.stderr.decode(errors="replace")}
        return failed("the checkpoint can not be used", diagnose(outputs, "mypt generate"))
    return passed(f"step {last.step} loaded by one process, a text continued by up to {NEW_TOKENS} tokens")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage by its name, and the phase whose time is its own."""

    name: str
    judge: Callable[[Acts], Outcome]
    act: str | None = None
    phase: str | None = None

    def seconds(self, acts: Acts, own: float) -> float:
        """Of its phase, if an act was played for it; else the ``own`` seconds of judging."""
        played = acts.__dict__.get(self.act or "")
        return played.phases.get(self.phase, own) if played and self.phase else own


STAGES = (
    Stage("nodes", nodes),
    Stage("launch", launch, "first", "launch"),
    Stage("steps", steps, "first", "steps"),
    Stage("save", save, "first", "save"),
    Stage("tracker", tracker),
    Stage("sigterm", sigterm, "first", "sigterm"),
    Stage("kill", kill, "killed", "kill"),
    Stage("resume", resume, "resumed", "resume"),
    Stage("generate", generate),
)


def _not_reached(act: Played, phase: str, before: str, acts: Acts) -> Outcome:
    if not act.reached(before):
        return skipped(f"{before} was not reached")
    return failed(f"{phase} was not reached", diagnose(act.outputs, acts.scene.target))


def _problems(acts: Acts) -> list[str]:
    try:
        return verify_checkpoint(acts.scene.run)
    except CheckpointError as error:
        return [str(error)]


def _wrong_order(manifest: Manifest | None, acts: Acts) -> Finding | None:
    if manifest is None:
        return None
    try:
        expected = order_hash(acts.scene.config, manifest.step)
    except MyptError as error:
        return Finding("data", str(error), "the order can not be computed", "look at the dataset")
    if manifest.order_hash == expected:
        return None
    found = f"step {manifest.step} has order hash {manifest.order_hash[:12]}, {expected[:12]} was promised"
    return Finding("data", found, "samples were read twice or left out", "the same dataset on every node")


def _gap(act: Played) -> int | None:
    """The first step that the journal lacks."""
    have = act.losses
    return next((step for step in range(1, max(have, default=0)) if step not in have), None)


def _how(act: Played) -> str:
    """What the survivors said of it."""
    said = any("another rank died or stopped answering" in output for output in act.outputs.values())
    return " with exit code 7" if said else ", ended by their launcher"
