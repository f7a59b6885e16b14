"""Code that computes something else than the code that saved is told so, whatever the hashes say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.errors import CheckpointError
from mypt_dist.models.gpt.module import GPT
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig

pytestmark = pytest.mark.e2e


@pytest.fixture
def saved(run_mapping: dict[str, Any], tmp_path: Path) -> RunConfig:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_mapping))
    train(RunConfig.load(str(path), ["train.stop_after=3"]))
    return RunConfig.load(str(path))


def test_the_loss_of_a_checkpoint_is_that_of_the_loaded_model(saved: RunConfig, capsys: Any) -> None:
    canary = open_checkpoint(saved.folder).manifest.canary
    assert canary is not None
    assert 0 < float.fromhex(canary.loss) < 16 * 8
    assert train(saved).state.step == 6
    assert "not exact" not in capsys.readouterr().err


@pytest.mark.parametrize(("factor", "refused"), [(1.0 + 1e-5, False), (1.1, True)])
def test_other_mathematics_are_noticed(
    saved: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: Any, factor: float, refused: bool
) -> None:
    forward = GPT.forward
    monkeypatch.setattr(
        GPT, "forward", lambda *inputs, **named: forward(*inputs, **named) * torch.tensor(factor, dtype=torch.float32)
    )
    if not refused:
        assert train(saved).state.step == 6
        assert "resuming at step 3 is not exact" in capsys.readouterr().err
        return
    with pytest.raises(CheckpointError, match="step 3 holds what was written, but the loss of the saved batch is"):
        train(saved)
