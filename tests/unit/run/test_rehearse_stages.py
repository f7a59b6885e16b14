"""Each stage fails when what happened is not as it must be. Acts are told here, not played."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mypt_dist
from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.config import validate
from mypt_dist.errors import ConfigError
from mypt_dist.launch.plan import Place
from mypt_dist.run.config import RunConfig
from mypt_dist.run.rehearse import stages
from mypt_dist.run.rehearse.acts import MORE_STEPS, Played, Scene, launch_arguments, sharing
from mypt_dist.run.rehearse.diagnosis import diagnose
from mypt_dist.run.rehearse.nodes import VirtualNode
from mypt_dist.run.rehearse.order import order_hash
from mypt_dist.run.rehearse.perform import Audience, Wish, perform
from mypt_dist.run.rehearse.scale import World
from mypt_dist.tracking.journal import read_events, read_metrics

WORLD = World(2, 2)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The mapping of a run that has done three steps."""
    mapping = {
        "name": "test",
        "out": str(tmp_path_factory.mktemp("trained") / "run"),
        "model": {"type": "gpt", "context": 16, "n_layer": 1, "n_head": 2, "n_embd": 32},
        "data": {"path": str(dataset)},
        "train": {"steps": 6, "batch_size": 8, "log_every": 1, "save_every": 1, "eval_windows": 4},
        "trackers": [],
    }
    mypt_dist.train(mapping, ["train.stop_after=3"])
    return mapping


@pytest.fixture
def told(trained: dict[str, Any], tmp_path: Path) -> Any:
    """What one process did in three steps, told as an act of two ranks."""
    run = tmp_path / "node-0/shared/run"
    shutil.copytree(trained["out"], run)
    mapping = {**trained, "out": str(run), "trackers": [{"type": "mlflow", "uri": "http://127.0.0.1:9"}]}
    config = validate(RunConfig, mapping, "the run")
    nodes = [VirtualNode(n, tmp_path / f"node-{n}", {}, n, WORLD) for n in (0, 1)]
    events = read_events(run)
    events[0]["tags"]["mypt.world_size"] = "2"
    events[-1]["status"] = "preempted"
    with open_checkpoint(run) as checkpoint:
        played = Played(
            phases=dict.fromkeys(("launch", "steps", "save", "sigterm", "kill", "resume"), 1.0),
            codes={0: 0, 1: 0},
            rows=read_metrics(run),
            events=events,
            resumed_from=3 - MORE_STEPS,
            newest=checkpoint.manifest,
        )
    before = dataclasses.replace(played, newest=played.newest.model_copy(update={"step": 3 - MORE_STEPS}))  # type: ignore[union-attr]
    scene = Scene(config, nodes, WORLD, World(1, 1), "ddp", None, "token")
    return SimpleNamespace(scene=scene, first=played, killed=before, interrupted=before, resumed=played)


PLAYED = ("launch", "steps", "save", "tracker", "sigterm", "kill", "resume")


@pytest.mark.parametrize("name", PLAYED)
def test_a_stage_passes_when_all_went_well(name: str, told: Any) -> None:
    outcome = getattr(stages, name)(told)
    assert outcome.verdict == "passed", outcome


def spoilt(name: str, told: Any) -> Any:
    """The same acts, with what ``name`` looks at gone wrong."""
    act: Played = told.resumed if name == "resume" else told.killed if name == "kill" else told.first
    match name:
        case "launch":
            act.events[0]["tags"]["mypt.world_size"] = "1"  # type: ignore[index]
        case "steps":
            act.rows = [{**row, "train/loss": None} for row in act.rows]
        case "save":
            file = next((told.scene.run / "checkpoints/step-00000003/weights").iterdir())
            file.write_bytes(b"\1" + file.read_bytes()[1:])
        case "tracker":
            act.rows = [row for row in act.rows if row["step"] != 2]
        case "sigterm":
            act.newest = act.newest.model_copy(update={"step": 2})  # type: ignore[union-attr]
        case "kill":
            act.left = 1
        case "resume":
            act.newest = act.newest.model_copy(update={"order_hash": "0" * 64})  # type: ignore[union-attr]
    return told


@pytest.mark.parametrize("name", PLAYED)
def test_a_stage_fails_with_a_remedy_when_something_went_wrong(name: str, told: Any) -> None:
    outcome = getattr(stages, name)(spoilt(name, told))
    assert outcome.verdict == "failed"
    assert all(finding.why and finding.remedy for finding in outcome.findings)
    assert outcome.findings


@pytest.mark.parametrize("name", ["launch", "steps", "sigterm", "kill", "resume"])
def test_a_stage_whose_phase_was_not_reached_fails_or_is_skipped(name: str, told: Any) -> None:
    told.first.phases.pop({"launch": "launch", "steps": "steps"}.get(name, "sigterm"))
    told.killed = dataclasses.replace(told.killed, phases={"launch": 1.0, "steps": 1.0}, left=2)
    told.resumed = dataclasses.replace(told.resumed, phases={}, outputs={0: "mypt: no such file: x\n"})
    told.first.outputs = {0: "", 1: "mypt: the launcher promised 4 ranks, but only 2 are connected: start with it\n"}
    outcome = getattr(stages, name)(told)
    assert outcome.verdict == "failed"
    assert outcome.findings


def test_the_order_hash_is_the_one_that_training_wrote(told: Any) -> None:
    manifest = told.first.newest
    assert order_hash(told.scene.config, manifest.step) == manifest.order_hash
    assert order_hash(told.scene.config, manifest.step - 1) != manifest.order_hash


@pytest.mark.parametrize(
    ("said", "found", "remedy"),
    [
        ("mypt: train.x is wrong: set y\nTraceback", "train.x is wrong", "set y"),
        ("[default0]:mypt: [rank 1] shard is damaged: copy it\n", "shard is damaged", "copy it"),
        ("RuntimeError: EADDRINUSE, Address already in use", "port of the meeting point", "another --port"),
        ("socket.gaierror: Name or service not known", "cannot be resolved", "--address"),
        ("DistStoreError: Timed out after 901 seconds", "did not find each other", "the same --address"),
        ("OSError: [Errno 24] Too many open files", "too many open files", "ulimit -n"),
        ("some new trouble", "the last line was: some new trouble", "--keep DIR"),
    ],
)
def test_what_ranks_died_of_is_read_from_what_they_said(said: str, found: str, remedy: str) -> None:
    told = diagnose({0: "", 1: said}, "ddp")
    assert found in told.found
    assert remedy in told.remedy


def test_the_cause_comes_before_what_follows_from_it() -> None:
    outputs = {0: "mypt: another rank died or stopped answering: reset\n", 1: "mypt: the disk is full: make room\n"}
    assert diagnose(outputs, "ddp").found == "the disk is full"


def test_an_unknown_stage_and_a_folder_that_holds_something_are_refused(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    config = validate(RunConfig, run_mapping, "the run")
    wish = Wish(config, "ddp", Place(ranks=2, nodes=2), only=("lunch",))
    with pytest.raises(ConfigError, match="no such stage"):
        perform(wish, Audience())
    with pytest.raises(ConfigError, match="holds something"):
        perform(dataclasses.replace(wish, only=("nodes",), keep=tmp_path.parent), Audience())


def test_nothing_is_played_while_the_plan_has_errors(run_mapping: dict[str, Any]) -> None:
    config = validate(RunConfig, run_mapping, "the run")
    report = perform(Wish(config, "ddp", Place(ranks=3, nodes=1)), Audience())
    assert not report.ok
    assert report.stages[0].outcome.verdict == "failed"
    assert {stage.outcome.verdict for stage in report.stages[1:]} == {"skipped"}
    assert "train.batch_size" in report.stages[1].outcome.said


def test_a_rank_that_does_not_fit_is_told_with_what_would(run_mapping: dict[str, Any]) -> None:
    config = validate(RunConfig, run_mapping, "the run")
    report = perform(Wish(config, "ddp", Place(ranks=2, nodes=2), memory=1 << 20, only=("plan",)), Audience())
    (finding,) = report.stages[0].outcome.findings
    assert (finding.where, report.ok) == ("--memory", False)


def test_no_rank_is_started_on_nodes_that_do_not_agree(run_mapping: dict[str, Any]) -> None:
    def not_shared(nodes: Sequence[VirtualNode]) -> Sequence[VirtualNode]:
        (nodes[1].folder / "shared").unlink()
        (nodes[1].folder / "shared").mkdir()
        return nodes

    config = validate(RunConfig, run_mapping, "the run")
    wish = Wish(config, "ddp", Place(ranks=2, nodes=2), only=("nodes", "launch"), arrange=not_shared)
    nodes, launch = perform(wish, Audience()).stages
    assert nodes.outcome.verdict == "failed"
    assert "mounted on every node" in nodes.outcome.findings[0].remedy
    assert (launch.outcome.verdict, launch.outcome.said) == ("skipped", "the nodes do not agree")


def test_a_synthetic_dataset_stands_in_for_one_that_is_not_here(run_mapping: dict[str, Any]) -> None:
    config = validate(RunConfig, {**run_mapping, "data": {"path": "/nowhere/data"}}, "the run")
    report = perform(Wish(config, "ddp", Place(ranks=2, nodes=2), only=("plan", "nodes")), Audience())
    assert report.ok
    assert "a synthetic dataset of bytes stands in for it" in report.remarks[0]


def test_hsdp_goes_on_as_fsdp2_where_replicas_are_left_out(told: Any) -> None:
    scene = dataclasses.replace(told.scene, world=World(8, 2), target="hsdp", replicas=2)
    assert sharing(scene, World(8, 2)) == ("hsdp", 2)
    assert sharing(scene, World(4, 1)) == ("hsdp", 2)
    assert sharing(scene, World(2, 1)) == ("fsdp2", None)
    assert sharing(told.scene, World(1, 1)) == ("ddp", None)


def test_a_node_is_given_the_command_of_the_cluster(told: Any) -> None:
    command = launch_arguments(told.scene, WORLD, told.scene.nodes[1], 2345)
    assert " ".join(command) == (
        "launch ddp run.json --plain --ranks 2 --cpu --nodes 2 --node-rank 1 --address 127.0.0.1 --port 2345"
    )
