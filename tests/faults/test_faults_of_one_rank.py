"""Something happens to one rank: all stop, for the reason that is true, and nothing half-written is ever taken."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count
from lives import Final, ForkServer, Life, final, write_run

from mypt_dist.checkpoint import open_checkpoint, verify_checkpoint
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.errors import CheckpointError

pytestmark = pytest.mark.multiproc

LOST_PEER = 7


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def mapping(run_mapping: dict[str, Any]) -> dict[str, Any]:
    """A run that 2 and 3 ranks can share, saved at steps 3, 6 and 9."""
    run_mapping["train"] |= {"batch_size": 12, "steps": 9, "eval_every": 9}
    # What is put into the ranks must meet the save there, and not in its writers.
    run_mapping["checkpoints"] = {"keep_last": 9, "background": False}
    return run_mapping


@pytest.fixture
def whole(mapping: dict[str, Any], tmp_path: Path, server: ForkServer) -> dict[int, Final]:
    """The ends of undisturbed runs, by ranks."""
    ends = {}
    for ranks in (2, 3):
        file = write_run(mapping, tmp_path, f"whole-{ranks}")
        assert set(server.start(file, ranks=ranks).wait()) == {0}
        ends[ranks] = final(file.with_suffix(""))
    return ends


def newest(run: Path) -> int:
    """Step of the newest checkpoint. Whatever is called one must be whole. Raises CheckpointError, AssertionError."""
    found = sorted(path for path in (run / "checkpoints").iterdir() if re.fullmatch(r"step-\d{8}", path.name))
    assert [problem for path in found for problem in verify_checkpoint(path)] == []
    return int(open_checkpoint(found[-1]).manifest.step)


# Bytes of its share after which a rank dies: nothing, the header's start, within tensors, near the end.
BYTES = range(0, 140_000, 7_000) if SOAK else (0, 1_000, 40_000)


@pytest.mark.timeout(3600 if SOAK else 600)
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_killed_inside_its_share_of_a_save_leaves_the_one_before(
    ranks: int, mapping: dict[str, Any], tmp_path: Path, server: ForkServer, whole: dict[int, Final]
) -> None:
    died = 0
    for number, at in enumerate(BYTES):
        victim = ranks - 1 - number % ranks
        file = write_run(mapping, tmp_path, f"shard-{at}")
        life = server.start(file, ranks=ranks, inject={victim: f"die_while_writing:6:{at}"})
        codes = life.wait()
        assert codes == [-9 if rank == victim else LOST_PEER for rank in range(ranks)], life.said()
        died += 1
        assert newest(file.with_suffix("")) == 3
        assert set(server.start(file, ranks=ranks).wait()) == {0}
        assert final(file.with_suffix("")) == whole[ranks]
    count(
        f"kill -9 of one of {ranks} ranks inside its share of a save",
        "no checkpoint of it; the others end with 7; the run resumes from the one before, bit-identical",
        kills=died,
        half_checkpoints=0,
        differing=0,
    )


PHASES = {"gathered": 3, "manifest": 3, "renamed": 6, "committed": 6, "retention": 6}
"""When rank 0 dies: before it commits, with the manifest written, with the folder renamed, when that is on the disk,
when older ones are to go. And the step of the newest checkpoint afterwards, for the save of step 6."""


@pytest.mark.timeout(600)
def test_rank_0_killed_at_any_phase_of_the_commit_leaves_whole_checkpoints_alone(
    mapping: dict[str, Any], tmp_path: Path, server: ForkServer, whole: dict[int, Final]
) -> None:
    for phase, step in PHASES.items():
        file = write_run(mapping, tmp_path, phase)
        life = server.start(file, ranks=2, inject={0: f"die_in_save:6:{phase}"})
        assert life.wait() == [-9, LOST_PEER], f"{phase}: {life.said()}"
        assert newest(file.with_suffix("")) == step, phase
        assert server.start(file, ranks=2).wait() == [0, 0]
        assert final(file.with_suffix("")) == whole[2], phase
    count(
        "kill -9 of rank 0 in each phase of the commit",
        "the new checkpoint whole or the one before; resumed bit-identical",
        phases=len(PHASES),
        half_checkpoints=0,
        differing=0,
    )


def test_a_commit_without_its_manifest_last_is_found_out(
    mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    file = write_run(mapping, tmp_path, "hasty")
    server.start(file, ranks=2, inject={0: "without_manifest_first:6"}).wait()
    with pytest.raises((AssertionError, CheckpointError)):
        newest(file.with_suffix(""))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_rank_ends_all_and_its_traceback_comes_first(
    rank: int, mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    file = write_run(mapping, tmp_path, "raising")
    life = server.start(file, ranks=2, inject={rank: "at_step:4:raise:RuntimeError"})
    assert life.wait() == [1 if rank == number else LOST_PEER for number in range(2)], life.said()
    said = life.said()
    cause = said.index("RuntimeError: put into it by a test")
    assert "another rank died" not in said[:cause]
    assert (said.count("mypt: another rank died or stopped answering") == 1) == (rank == 1)
    assert newest(file.with_suffix("")) == 3


def start_unlike(server: ForkServer, mapping: dict[str, Any], other: dict[str, Any], path: Path, **how: Any) -> Life:
    """Rank 1 is given another run file of the same run."""
    files = [write_run(mapping, path, "run")]
    files.append(path / "other.json")
    whole = json.loads(files[0].read_text())
    files[1].write_text(json.dumps({**whole, **other}))
    return server.start_each(files, **how)


def other_data(mapping: dict[str, Any], path: Path) -> dict[str, Any]:
    (path / "other.txt").write_text("another text " * 2000)
    prepare([str(path / "other.txt")], path / "data", PrepareSettings(tokenizer="byte", val_fraction=0.0))
    return {"data": {"path": str(path / "data")}}


def test_ranks_that_were_not_started_alike_are_refused_by_name(
    mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    other_rate = {"optimizer": {"type": "adamw", "lr": 2e-3}}
    cases: list[tuple[str, dict[str, Any], dict[int, str]]] = [
        ("optimizer.lr: 0.001 on rank 0, 0.002 on rank 1", other_rate, {}),
        ("the dataset's content: '", other_data(mapping, tmp_path), {}),
        ("code: commit: ", {}, {1: "other_code"}),
        ("out: '", {"out": str(tmp_path / "elsewhere")}, {}),
    ]
    for number, (expected, other, faults) in enumerate(cases):
        life = start_unlike(server, mapping, other, tmp_path / str(number), inject=faults)
        assert life.wait() == [2, 2], life.said()
        assert f"mypt: the ranks were not started alike:\n  {expected}" in life.said()
        assert "Traceback" not in life.said()
        assert not (tmp_path / str(number) / "run").exists(), "nothing is written"
    unguarded = start_unlike(server, mapping, other_rate, tmp_path / "twin", inject=dict.fromkeys((0, 1), "unguarded"))
    assert unguarded.wait() == [4, 4], "not before it has cost steps: when their weights are compared"
    count(
        "ranks with another run file, dataset, code or folder",
        "refused at the start, what differs is named",
        cases=len(cases),
        refused=len(cases),
    )


def test_a_machine_whose_files_are_wrong_says_so_itself(
    mapping: dict[str, Any], tmp_path: Path, server: ForkServer
) -> None:
    life = start_unlike(
        server, mapping, {"data": {"path": "nowhere"}}, tmp_path, environment={}, variables={1: {"LOCAL_RANK": "0"}}
    )
    server.ask({"wait": life.pids[1:], "seconds": 60})
    assert "mypt: [rank 1] no dataset at nowhere" in life.said()
    # Rank 0 waits for a peer that will not come, until the launcher ends it.
    life.kill()
