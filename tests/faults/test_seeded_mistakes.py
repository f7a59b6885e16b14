"""Mistakes that people make before a run, each made on purpose: the rehearsal names it, and says what to do."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import count
from seeding import Scenery, with_header

import mypt_dist
from mypt_dist.launch.plan import Place
from mypt_dist.run.rehearse import checks
from mypt_dist.run.rehearse.checks import CHECKS, NODE_CHECKS, catalogue, name_of, node_findings
from mypt_dist.run.rehearse.findings import Finding


@pytest.fixture
def scenery(run_mapping: dict[str, Any], dataset: Path, tmp_path: Path) -> Scenery:
    """A sound run in which nothing has been spoilt yet."""
    return Scenery(run_mapping, dataset, tmp_path)


Seed = Callable[[Scenery], list[Finding]]

SEEDS: dict[str, tuple[Seed, str, str]] = {}
"""By the name of the mistake: how it is made, and words of the place and of the remedy that must be named."""


def seed(check: str, where: str, remedy: str) -> Callable[[Seed], Seed]:
    def register(made: Seed) -> Seed:
        SEEDS[f"{check}/{made.__name__}"] = (made, where, remedy)
        return made

    return register


@seed("batch-ranks", "train.batch_size", "use a multiple of 3, such as 6")
def a_batch_that_three_ranks_cannot_share(scenery: Scenery) -> list[Finding]:
    return scenery.found(place=Place(ranks=3, nodes=1))


@seed("micro-batch", "train.micro_batch", "use one of 1, 2, 4")
def a_micro_batch_larger_than_a_share(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.micro_batch=8")


@seed("launch-place", "ddp.yaml", "use a multiple of 2 ranks")
def three_ranks_on_two_nodes(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.batch_size=12", place=Place(ranks=3, nodes=2))


@seed("launch-place", "ddp.yaml", "use 0 to 1")
def a_node_rank_beyond_the_nodes(scenery: Scenery) -> list[Finding]:
    return scenery.found(place=Place(ranks=2, nodes=2, node_rank=2))


@seed("launch-place", "hsdp.yaml", "--replicas N that divides 4")
def replicas_that_do_not_divide_the_ranks(scenery: Scenery) -> list[Finding]:
    return scenery.found(target="hsdp", place=Place(ranks=4, nodes=2, replicas=3))


@seed("launch-file", "mine.yaml", "train.batch_size and train.micro_batch there")
def a_launch_file_that_accumulates_gradients(scenery: Scenery) -> list[Finding]:
    return scenery.found(target=scenery.launch_file("distributed_type: MULTI_GPU\ngradient_accumulation_steps: 4\n"))


@seed("launch-file", "mine.yaml", "set train.precision there")
def a_launch_file_that_sets_the_precision(scenery: Scenery) -> list[Finding]:
    return scenery.found(target=scenery.launch_file("distributed_type: MULTI_GPU\nmixed_precision: bf16\n"))


@seed("launch-world", "mine.yaml: num_processes", "num_processes: 2")
def a_launch_file_of_another_world(scenery: Scenery) -> list[Finding]:
    return scenery.found(target=scenery.launch_file("distributed_type: MULTI_GPU\nnum_processes: 16\n"))


@seed("rank-variables", "environment", "unset RANK MASTER_ADDR")
def rank_variables_half_set(scenery: Scenery) -> list[Finding]:
    return scenery.found(environ={"RANK": "1", "MASTER_ADDR": "node0"})


@seed("environment-settings", "environment", "set train.batch_size and train.micro_batch in the run file")
def a_variable_of_accelerate_left_over(scenery: Scenery) -> list[Finding]:
    return scenery.found(environ={"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})


@seed("environment-settings", "environment", "unset MYPT_EXPECT_RANKS")
def a_variable_of_an_earlier_launch(scenery: Scenery) -> list[Finding]:
    return scenery.found(environ={"MYPT_EXPECT_RANKS": "16"})


@seed("port", "--port", "another --port")
def a_port_that_something_listens_on(scenery: Scenery) -> list[Finding]:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen(1)
        return scenery.found(place=Place(ranks=2, nodes=2, port=other.getsockname()[1]))


@seed("address", "--address", "a name that every node resolves")
def an_address_that_leads_nowhere(scenery: Scenery) -> list[Finding]:
    return scenery.found(place=Place(ranks=2, nodes=2, address="node0.invalid"))


@seed("engine-optimizer", "optimizer.type", "--target ddp or fsdp2")
def muon_under_zero(scenery: Scenery) -> list[Finding]:
    return scenery.found("optimizer.type=muon", target="zero2")


@seed("engine-settings", "train.hold_gradients", "--target fsdp2")
def gradients_held_under_zero(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.hold_gradients=true", target="zero2")


@seed("optimizer-groups", "optimizer.groups.0.match", "correct the pattern")
def a_rule_that_no_parameter_follows(scenery: Scenery) -> list[Finding]:
    return scenery.found('optimizer.groups=[{"match": "layers.*.weight"}]')


@seed("precision-here", "train.precision", "a few steps on one GPU")
def fp8_on_a_cpu(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.precision=fp8")


@seed("tracker-uri", "trackers.0.uri", "http://HOST:PORT")
def a_tracker_without_a_host(scenery: Scenery) -> list[Finding]:
    return scenery.found('trackers=[{"type": "mlflow", "uri": "http:/mlflow.example"}]')


@seed("tracker-uri", "MLFLOW_TRACKING_URI", "http://HOST:PORT")
def a_tracker_in_the_environment_with_a_misspelt_scheme(scenery: Scenery) -> list[Finding]:
    return scenery.found('trackers=[{"type": "mlflow"}]', environ={"MLFLOW_TRACKING_URI": "htp://mlflow:5000"})


@seed("save-every", "train.save_every", "train.save_every=1")
def a_run_that_never_saves(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.save_every=500")


@seed("warmup", "train.schedule.warmup", "count it in the other unit")
def a_warm_up_longer_than_the_run(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.schedule.warmup=2000")


@seed("decay", "train.schedule.decay", "train.schedule.decay=1")
def a_fall_longer_than_what_is_left(scenery: Scenery) -> list[Finding]:
    return scenery.found('train.schedule={"shape": "wsd", "warmup": 2, "decay": 5}')


@seed("eval-windows", "train.eval_windows", "train.eval_windows=")
def more_windows_than_the_validation_split_has(scenery: Scenery) -> list[Finding]:
    return scenery.found("train.eval_windows=1000000")


@seed("dataset-missing", "data.path", "mypt data prepare")
def a_dataset_that_is_not_there(scenery: Scenery) -> list[Finding]:
    return scenery.found("data.path=/nowhere/data")


@seed("dataset-damaged", "data.path", "mypt data verify")
def a_truncated_shard(scenery: Scenery) -> list[Finding]:
    copy = scenery.copy_of_data()
    shard = next(copy.glob("train/*.bin"))
    shard.write_bytes(shard.read_bytes()[:-100])
    return scenery.found(f"data.path={copy}")


@seed("token-ids", "data.path", "mypt data verify")
def a_token_beyond_the_vocabulary(scenery: Scenery) -> list[Finding]:
    copy = scenery.copy_of_data()
    shard = next(copy.glob("train/*.bin"))
    tokens = np.frombuffer(shard.read_bytes()[64:], "<u2").copy()
    tokens[5] = 60_000
    shard.write_bytes(with_header(shard, tokens.tobytes()))
    return scenery.found(f"data.path={copy}")


@seed("vocabulary", "model.vocab_size", "model.vocab_size=null")
def a_model_with_too_few_rows(scenery: Scenery) -> list[Finding]:
    return scenery.found("model.vocab_size=100")


@seed("tokenizers-differ", "data.sources.other.path", "prepare them alike")
def sources_of_different_tokenizers(scenery: Scenery) -> list[Finding]:
    sources = {"first": {"path": str(scenery.dataset)}, "other": {"path": str(scenery.char_data())}}
    return scenery.found(f"data={json.dumps({'sources': sources})}")


@seed("window", "data.path", "lower model.context")
def a_context_longer_than_the_data(scenery: Scenery) -> list[Finding]:
    return scenery.found("model.context=1000000", "train.eval_windows=1")


@seed("epochs", "data.sources.only.max_epochs", "lower train.steps")
def a_source_read_too_often(scenery: Scenery) -> list[Finding]:
    sources = {"only": {"path": str(scenery.dataset), "max_epochs": 0.5}}
    return scenery.found(f"data={json.dumps({'sources': sources})}", "train.steps=5000", "train.save_every=10")


@seed("phases", "data.phases", "give each phase a later end")
def phases_that_do_not_follow_each_other(scenery: Scenery) -> list[Finding]:
    ends = [{"until_step": step, "weights": {"main": 1}} for step in (5, 4)]
    return scenery.found(f"data.phases={json.dumps(ends)}")


@seed("evaluation-sets", "evaluation.sets.odd.path", "correct the path")
def an_evaluation_set_that_is_not_there(scenery: Scenery) -> list[Finding]:
    return scenery.found('evaluation.sets={"odd": {"path": "/nowhere/data"}}')


@seed("folder-writable", "out", "out=FOLDER")
def a_folder_that_cannot_be_written(scenery: Scenery) -> list[Finding]:
    return scenery.found("out=/proc/run")


@seed("folder-locked", "out", "stop that run")
def a_folder_in_which_another_run_trains(scenery: Scenery) -> list[Finding]:
    from mypt_dist.checkpoint import RunLock

    with RunLock(scenery.config().folder):
        return scenery.found()


@seed("other-model", "out", "out=ANOTHER FOLDER")
def checkpoints_of_another_model(scenery: Scenery) -> list[Finding]:
    scenery.train()
    return scenery.found("model.n_embd=64")


@seed("changed-on-resume", "train.batch_size", "--allow-change train.batch_size")
def another_batch_on_a_resume(scenery: Scenery) -> list[Finding]:
    scenery.train()
    return scenery.found("train.batch_size=16")


@seed("changed-on-resume", "data", "--allow-change data")
def other_data_on_a_resume(scenery: Scenery) -> list[Finding]:
    scenery.train()
    return scenery.found(f"data.path={scenery.other_data()}")


@seed("disk-space", "checkpoints", "a larger disk")
def a_disk_too_small_for_the_checkpoints(scenery: Scenery) -> list[Finding]:
    return scenery.found(seen={"free_bytes": 100_000})


@seed("open-files", "ulimit -n", "ulimit -n 4096")
def too_few_open_files(scenery: Scenery) -> list[Finding]:
    return scenery.found(seen={"open_files": 64})


@seed("node-ranks", "--node-rank", "--node-rank 0 to 1, another on each node")
def a_node_rank_given_twice(scenery: Scenery) -> list[Finding]:
    return node_findings([scenery.facts(0), scenery.facts(1, node_rank=0)])


@seed("node-counts", "--nodes", "the same --nodes on every node")
def nodes_told_of_different_worlds(scenery: Scenery) -> list[Finding]:
    return node_findings([scenery.facts(0), scenery.facts(1, nodes=3)])


@seed("clocks", "node 1", "NTP on every node")
def a_clock_five_minutes_ahead(scenery: Scenery) -> list[Finding]:
    return node_findings([scenery.facts(0), scenery.facts(1, ahead=300)])


@seed("folder-shared", "out", "mounted on every node")
def a_folder_that_the_nodes_do_not_share(scenery: Scenery) -> list[Finding]:
    nodes = scenery.nodes()
    (nodes[1].folder / "shared").unlink()
    (nodes[1].folder / "shared").mkdir()
    return scenery.asked(nodes)


@seed("folder-shared", "node 1", "make shared/run writable there")
def a_folder_that_one_node_cannot_write(scenery: Scenery) -> list[Finding]:
    nodes = scenery.nodes()
    (nodes[1].folder / "shared").unlink()
    (nodes[1].folder / "shared").write_text("not mounted")
    return scenery.asked(nodes)


@seed("code-versions", "node 1", "install the same version")
def other_code_on_one_node(scenery: Scenery) -> list[Finding]:
    nodes, site = scenery.nodes(), scenery.folder / "site"
    shutil.copytree(Path(mypt_dist.__file__).parent, site / "mypt_dist", ignore=shutil.ignore_patterns("__pycache__"))
    changed = site / "mypt_dist/training/schedule.py"
    changed.write_text(changed.read_text() + "\n# one line more\n")
    environ = {**nodes[1].environ, "PYTHONPATH": str(site)}
    return scenery.asked([nodes[0], replace(nodes[1], environ=environ)])


@seed("run-files", "node 1", "one run file")
def another_run_file_on_one_node(scenery: Scenery) -> list[Finding]:
    nodes = scenery.nodes()
    path = nodes[1].folder / "run.json"
    path.write_text(path.read_text().replace('"steps": 6', '"steps": 7'))
    return scenery.asked(nodes)


@seed("dataset-content", "source main", "mypt data verify")
def another_dataset_on_one_node(scenery: Scenery) -> list[Finding]:
    # The run file is the same: only what lies at the path differs, as on disks of their own.
    nodes = scenery.nodes(data=Path("data"))
    for node, data in zip(nodes, (scenery.dataset, scenery.other_data()), strict=True):
        (node.folder / "data").symlink_to(data)
    return scenery.asked(nodes)


CAUGHT: dict[str, bool] = {}


@pytest.mark.parametrize("name", SEEDS)
def test_a_seeded_mistake_is_named_with_its_place_and_remedy(name: str, scenery: Scenery) -> None:
    made, where, remedy = SEEDS[name]
    CAUGHT[name] = False
    found = [finding for finding in made(scenery) if finding.check == name.partition("/")[0]]
    assert found, "not found at all"
    assert any(where in finding.where and remedy in finding.remedy for finding in found), found
    assert all(finding.found and finding.why for finding in found)
    CAUGHT[name] = True


def test_every_check_has_a_seeded_mistake_and_all_are_counted() -> None:
    names = {name_of(check) for check in (*CHECKS, *NODE_CHECKS)}
    assert names == {name.partition("/")[0] for name in SEEDS}
    assert len(SEEDS) >= 20
    if len(CAUGHT) == len(SEEDS):
        count(
            "seeded mistakes in a rehearsal",
            "each named with its place and its remedy",
            seeded=len(SEEDS),
            caught=sum(CAUGHT.values()),
        )


def test_a_sound_run_on_sound_nodes_has_no_findings(scenery: Scenery) -> None:
    assert scenery.found() == []
    assert scenery.asked(scenery.nodes()) == []


@pytest.mark.parametrize("name", ["rank-variables/rank_variables_half_set", "warmup/a_warm_up_longer_than_the_run"])
def test_without_its_check_a_mistake_goes_unseen(name: str, scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(check for check in CHECKS if name_of(check) != name.partition("/")[0])
    monkeypatch.setattr(checks, "CHECKS", kept)
    assert SEEDS[name][0](scenery) == []


def test_the_catalogue_in_the_docs_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/rehearse.md").read_text().partition("## Catalogue")[2]
    rows = [f"| `{name}` | {caught} | {stage} |" for name, caught, stage in catalogue()]
    assert [row for row in rows if row not in page] == []
    assert page.count("\n| `") == len(rows)
