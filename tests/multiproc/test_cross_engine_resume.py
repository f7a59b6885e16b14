"""Any engine and world size resumes any other's checkpoint, bit by bit, and the run goes on as it would have."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import ENGINES
from finished_runs import losses
from foreign_models import save_model
from safetensors.torch import load_file

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.interchange.hf.export import ExportOptions, export_hf
from mypt_dist.run.models import load_model, model_config

# Many starts of ranks in one test or fixture: on a busy machine they take longer than a test may otherwise.
pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent
RESUMED = ["1", "DDP x2", "FSDP2 x2", "FSDP2 x4", "ZeRO-1 x2", "ZeRO-2 x2", "ZeRO-3 x2"]
HALF, WHOLE = 5, 10

# 33 rows of positions over 2 and 4 ranks: shards of unequal length, and partitions that end in padding.
# Without the one bias that no class of transformers has.
MODEL = {"type": "gpt", "context": 33, "n_layer": 2, "n_head": 3, "n_embd": 39, "dropout": 0.0, "bias_head": False}
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def uninterrupted(forked: Any, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run of ten steps by engine, with checkpoints at 5 and 10."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = {}
    for engine in RESUMED:
        ranks, environment = ENGINES[engine]
        out = folder / engine
        run_file = write_run(dataset, out, folder / f"{engine}.json")
        forked(ranks, "-m", "mypt_dist", "train", str(run_file), **environment)
        done[engine] = out
    return done


def write_run(dataset: Path, out: Path, path: Path) -> Path:
    train = {"steps": WHOLE, "batch_size": 8, "micro_batch": 1, "log_every": 1, "eval_every": HALF, "save_every": HALF}
    mapping = {
        "out": str(out),
        "model": MODEL,
        "data": {"path": str(dataset)},
        "optimizer": {"type": "adamw", "lr": 1e-3},
        "train": train,
        "trackers": [],
    }
    path.write_text(json.dumps(mapping))
    return path


@pytest.mark.parametrize("engine", RESUMED)
def test_every_checkpoint_is_resumed(
    engine: str, uninterrupted: dict[str, Path], dataset: Path, forked: Any, tmp_path: Path
) -> None:
    run_files = []
    for source, whole in uninterrupted.items():
        out = tmp_path / source
        shutil.copytree(whole / f"checkpoints/step-{HALF:08}", out / f"checkpoints/step-{HALF:08}")
        run_files.append(write_run(dataset, out, tmp_path / f"{source}.json"))
    ranks, environment = ENGINES[engine]
    forked(ranks, str(HERE / "resume_others.py"), str(WHOLE), *map(str, run_files), **environment)
    for source, whole in uninterrupted.items():
        assert_loaded_bit_by_bit(tmp_path / source, ranks)
        expected, found = losses(whole)[HALF:], losses(tmp_path / source)
        assert found == pytest.approx(expected, rel=TOLERANCE), f"{source} -> {engine}"
        ends = [open_checkpoint(run / f"checkpoints/step-{WHOLE:08}").manifest for run in (whole, tmp_path / source)]
        assert ends[0].order_hash == ends[1].order_hash
        assert ends[1].world_size == ranks


@pytest.mark.parametrize("engine", ["FSDP2 x4", "ZeRO-3 x2"])
def test_an_export_does_not_show_which_engine_wrote(
    engine: str, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = uninterrupted[engine]
    with open_checkpoint(run) as checkpoint:
        config = model_config(checkpoint)
        assert checkpoint.manifest.world_size == ENGINES[engine][0]
    save_model(tmp_path / "one", load_model(run), config)
    shared = export_hf(run, tmp_path / "shared", ExportOptions())
    alone = export_hf(tmp_path / "one", tmp_path / "alone", ExportOptions())
    same = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {name: shared.files[name] for name in same} == {name: alone.files[name] for name in same}
    # Those of one process have learned the same, up to rounding: a share in the wrong place would show.
    export_hf(uninterrupted["1"], tmp_path / "other", ExportOptions())
    reference, found = (load_file(tmp_path / name / "model.safetensors") for name in ("other", "shared"))
    assert reference.keys() == found.keys()
    assert all(torch.allclose(found[name], weight, atol=1e-4) for name, weight in reference.items())


def assert_loaded_bit_by_bit(run: Path, ranks: int) -> None:
    """What the ranks held after loading is what the checkpoint holds: every tensor whole, no byte changed."""
    covered: dict[str, int] = {}
    with open_checkpoint(run / f"checkpoints/step-{HALF:08}") as checkpoint:
        for rank in range(ranks):
            for name, start, length, sha256 in json.loads((run / f"loaded-{rank}.json").read_text()):
                saved = bytearray(4 * length)
                checkpoint.read_into(name, start, length, saved)
                assert hashlib.sha256(saved).hexdigest() == sha256, f"{name}[{start}:{start + length}]"
                covered[name] = covered.get(name, 0) + length
        assert covered == {name: tensor.elements for name, tensor in checkpoint.manifest.tensors.items()}
