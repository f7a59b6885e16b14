"""Models of other programs are trained on here, as the guides say, and leave again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import ROWS
from outlines import QUICK
from test_conversion import FIXTURES
from test_hf_import import theirs
from transformers import AutoModelForCausalLM

from mypt_dist.checkpoint import Checkpoint, open_checkpoint
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.interchange import write_adopted
from mypt_dist.interchange.hf.adopt import adopt_hf
from mypt_dist.interchange.hf.export import ExportOptions, export_hf
from mypt_dist.interchange.trainers.conversion import convert
from mypt_dist.interchange.trainers.sources import find
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig
from mypt_dist.run.models import load_model


def trained_on(source: Path, folder: Path, **start: Any) -> Path:
    """A run of two steps that starts from ``source``, on text that was prepared with that model's own tokenizer."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    (checkpoint,) = (source / "checkpoints").glob("step-*")
    tokenizer = str(checkpoint / "tokenizer.json")
    prepare([str(folder / "text.txt")], folder / "data", PrepareSettings(tokenizer=tokenizer, val_fraction=0.2))
    often = {"log_every": 1, "eval_every": 2, "save_every": 2, "eval_windows": 2}
    mapping = {
        "name": "on",
        "out": str(folder / "on"),
        "start_from": {"path": str(source), **start},
        "data": {"path": str(folder / "data")},
        "train": {"steps": 2, "batch_size": 2, **often},
        "checkpoints": {"background": False},
        "trackers": [],
    }
    return train(RunConfig.of(mapping, "the run")).folder


def tensor(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, Any]:
    entry = checkpoint.tensor(name)
    into = np.empty(entry.elements, np.float32)
    checkpoint.read_into(name, 0, entry.elements, into.data)
    return into


@pytest.mark.parametrize("name", ["legacy_char", "head_modern_char"])
def test_a_model_of_mypt_is_trained_on_with_its_own_moments(name: str, tmp_path: Path) -> None:
    convert(find(FIXTURES / name), tmp_path / "old", QUICK)
    run = trained_on(tmp_path / "old", tmp_path, optimizer="kept")
    with open_checkpoint(run) as after, open_checkpoint(tmp_path / "old") as before:
        origin: Any = after.manifest.origin
        assert (origin["step"], origin["optimizer"], origin["origin"]["program"]) == (5, "kept", "mypt")
        assert tensor(before, "optimizer/step/norm.weight").tolist() == [5]
        assert tensor(after, "optimizer/step/norm.weight").tolist() == [7]
        moved = np.abs(tensor(after, "model/norm.weight") - tensor(before, "model/norm.weight")).max()
        assert 0 < moved < 0.1


def test_a_model_of_hugging_face_in_16_bits_is_trained_on_and_goes_back(tmp_path: Path) -> None:
    theirs("qwen3", tmp_path / "theirs", torch.bfloat16)
    write_adopted(adopt_hf(tmp_path / "theirs", "byte"), tmp_path / "old")
    run = trained_on(tmp_path / "old", tmp_path)
    export_hf(run, tmp_path / "exported", ExportOptions())
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", attn_implementation="eager").eval()
    ids = torch.randint(0, ROWS, (2, 32), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert (back(ids).logits - load_model(run)(ids)).abs().max() < 1e-5
        assert (load_model(run)(ids) - load_model(tmp_path / "old")(ids)).abs().max() > 1e-4
