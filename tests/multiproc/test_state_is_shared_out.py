"""What a rank holds falls with the number of ranks, measured; saving and loading take no more than its own share."""

import json
from pathlib import Path
from typing import Any

import pytest
from engines import FSDP2, zero

from mypt_dist.launch import EngineName, Topology
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.plan.passes import survey
from mypt_dist.run.plan.states import Layout, largest

# Many starts of ranks in one test or fixture: on a busy machine they take longer than a test may otherwise.
pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(1200)]

SCRIPT = Path(__file__).parent / "weigh.py"
# 14 M parameters, 170 MB with both moments: enough to stand out from what else a process allocates.
SIZES = {"context": 16, "n_layer": 4, "n_head": 8, "n_embd": 512}
# In the background the copy that is written counts as well: one more share of the state.
AT_ONCE = {"checkpoints": {"background": False}}
MODEL = {"type": "gpt", "dropout": 0.0, **SIZES}


def weigh(
    launch: Any, mapping: dict[str, Any], folder: Path, ranks: int, environment: dict[str, str]
) -> dict[str, int]:
    """The most of any rank, by what."""
    folder.mkdir()
    path = folder / "run.json"
    train = {**mapping["train"], "batch_size": 4, "eval_every": 6}
    path.write_text(json.dumps({**mapping, "out": str(folder / "run"), "model": MODEL, "train": train, **AT_ONCE}))
    for stop in ("1", "2"):
        # A process of its own each, because memory that training has freed would serve loading unseen.
        launch(ranks, str(SCRIPT), str(folder), str(path), stop, **environment)
    told = [json.loads((folder / f"2-{rank}.json").read_text()) for rank in range(ranks)]
    return {what: max(one[what] for one in told) for what in told[0]}


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_state_falls_with_the_ranks_and_checkpoints_never_gather_it(
    name: EngineName, run_mapping: dict[str, Any], launch: Any, tmp_path: Path
) -> None:
    environment = FSDP2 if name == "fsdp2" else zero(3)
    two, four = (weigh(launch, run_mapping, tmp_path / str(ranks), ranks, environment) for ranks in (2, 4))
    assert four["state"] == pytest.approx(two["state"] / 2, rel=0.03)
    for ranks, weighed in ((2, two), (4, four)):
        planned = largest(survey(GPTConfig(vocab_size=320, **SIZES), AdamWConfig())[0], Layout(Topology(name, ranks)))
        assert weighed["state"] == planned.device.total - planned.device.gradients, "to the byte"
        # Some pieces of 1 MiB on their way to disk.
        assert weighed["saving"] < weighed["state"] / 5
        # The moments, which are not there before, and for a moment gradients: the rank's share, not all ranks'.
        assert weighed["loading"] < weighed["state"] * 1.2
