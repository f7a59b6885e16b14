"""A run on three sources with a curriculum, killed again and again, on one rank and on two: as if undisturbed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lives import ForkServer, eventually, final, steps_done, write_run

from mypt_dist.checkpoint import Manifest, open_checkpoint

pytestmark = pytest.mark.multiproc

PHASES = [
    {"until_step": 5, "weights": {"en": 1}},
    {"until_tokens": 11 * 8 * 16 + 1, "weights": {"en": 0.25, "code": 0.75}},
]
STEPS, SAVE_EVERY, KILLS = 16, 2, (4, 9)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def manifest(run: Path) -> Manifest:
    with open_checkpoint(run) as checkpoint:
        return checkpoint.manifest


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_curriculum_ends_as_an_undisturbed_one(
    ranks: int, server: ForkServer, run_mapping: dict[str, Any], mixture: Path, memory: Path
) -> None:
    run_mapping["data"] = {"path": str(mixture), "phases": PHASES, "coverage": {"below": "ignore"}}
    run_mapping["evaluation"] = {"by_source": True}
    train = {"steps": STEPS, "save_every": SAVE_EVERY, "eval_every": 6, "eval_windows": 4}
    whole, killed = (write_run(run_mapping, memory, name, **train) for name in ("whole", "killed"))
    assert set(server.start(whole, ranks=ranks).wait()) == {0}
    run, alive = killed.with_suffix(""), 0
    for step in KILLS:
        life = server.start(killed, ranks=ranks)
        eventually(f"step {step}", lambda step=step, life=life: steps_done(run) >= step or life.ended())  # type: ignore[misc]
        alive += not life.ended()
        life.kill()
    assert alive, "some were killed in the middle"
    assert set(server.start(killed, ranks=ranks).wait()) == {0}
    assert final(run) == final(whole.with_suffix(""))
    ours, theirs = manifest(run), manifest(whole.with_suffix(""))
    assert ours.sources == theirs.sources
    assert ours.data["stretches"] == theirs.data["stretches"]
    assert [stretch["first"] for stretch in ours.data["stretches"]] == [0, 40, 89]  # type: ignore[index, union-attr, call-overload]
