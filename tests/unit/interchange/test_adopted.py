import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adopted_models import TINY, adopted, segment

from mypt_dist.checkpoint import list_checkpoints, open_checkpoint, verify_checkpoint
from mypt_dist.errors import CheckpointError, ConfigError, SaveError
from mypt_dist.interchange import Adopted, adopted_before, write_adopted
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.models import get_model_info, load_for_generation, load_model


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def weights(source: Adopted) -> dict[str, bytes]:
    return {tensor.name: bytes(tensor.data()) for tensor in source.tensors}


def test_an_adopted_model_is_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    source = adopted()
    folder = write_adopted(source, tmp_path / "deep" / "run")
    assert folder == tmp_path / "deep/run/checkpoints/step-00000007"
    assert verify_checkpoint(tmp_path / "deep/run") == []
    (line,) = list_checkpoints(tmp_path / "deep/run")
    assert (line.step, line.problem) == (7, None)
    assert get_model_info(tmp_path / "deep/run")["model"] == TINY.model_dump(mode="json")
    model, tokenizer = load_for_generation(tmp_path / "deep/run")
    assert tokenizer.fingerprint == source.tokenizer.fingerprint
    held = {f"model/{name}": p.detach().contiguous().numpy().tobytes() for name, p in model.named_parameters()}
    assert held == weights(source)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.manifest.origin == source.origin.model_dump(mode="json")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_stay_as_they_are_and_are_widened_exactly_when_they_are_read(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    source = adopted(dtype=dtype)
    folder = write_adopted(source, tmp_path / "run")
    with open_checkpoint(folder) as checkpoint:
        stored = {tensor.dtype for tensor in checkpoint.manifest.tensors.values()}
    assert stored == {"BF16" if dtype is torch.bfloat16 else "F16"}
    for name, parameter in load_model(folder).named_parameters():
        assert parameter.dtype is torch.float32
        narrowed = parameter.detach().to(dtype)
        assert bool((narrowed.float() == parameter).all())
        assert narrowed.view(torch.uint8).numpy().tobytes() == weights(source)[f"model/{name}"]


def test_the_same_source_again_changes_nothing(tmp_path: Path) -> None:
    first = write_adopted(adopted(), tmp_path / "run")
    before = everything(tmp_path)
    moved = replace(adopted(), origin=adopted().origin.model_copy(update={"path": "/elsewhere"}))
    assert write_adopted(moved, tmp_path / "run") == first
    assert everything(tmp_path) == before


def test_another_source_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    write_adopted(adopted(), tmp_path / "run")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match="the conversion of /there"):
        write_adopted(adopted(seed=1), tmp_path / "run")
    assert everything(tmp_path) == before


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        write_adopted(adopted(), tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        write_adopted(adopted(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_conversion_is_not_taken_for_whole(tmp_path: Path) -> None:
    folder = write_adopted(adopted(), tmp_path / "run")
    (weights_file,) = (folder / "weights").iterdir()
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(CheckpointError, match="has changed"):
        write_adopted(adopted(), tmp_path / "run")


def test_what_a_killed_adoption_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints/step-00000007.partial-0a/weights").mkdir(parents=True)
    assert adopted_before(tmp_path / "run", adopted().origin) is None
    folder = write_adopted(adopted(), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == [folder.name]


def test_a_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise OSError(5, "Input/output error")

    source = adopted()
    tensors = [*source.tensors[:-1], replace(source.tensors[-1], data=broken)]
    with pytest.raises(SaveError, match="Input/output error"):
        write_adopted(replace(source, tensors=tensors), tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_are_not_those_of_the_model_are_all_named(tmp_path: Path) -> None:
    source = adopted()
    kept = [tensor for tensor in source.tensors if tensor.name != "model/norm.weight"]
    wrong = [
        *(tensor for tensor in kept if tensor.name not in ("model/positions.weight", "model/norm.bias")),
        segment("model/positions.weight", torch.zeros(9, 8)),
        segment("model/norm.bias", torch.zeros(8, dtype=torch.float64)),
        segment("model/extra", torch.zeros(2)),
    ]
    with pytest.raises(CheckpointError) as refused:
        write_adopted(replace(source, tensors=wrong), tmp_path / "run")
    told = str(refused.value)
    assert "missing: model/norm.weight" in told
    assert "not part of the model: model/extra" in told
    assert "model/positions.weight [9, 8], must be [8, 8]" in told
    assert "model/norm.bias F64" in told
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_an_optimizer_must_be_whole(tmp_path: Path) -> None:
    source = adopted()
    moments = [
        segment(f"optimizer/{key}/{tensor.name.removeprefix('model/')}", torch.zeros(shape))
        for tensor in source.tensors
        for key, shape in (("step", ()), ("exp_avg", tensor.shape), ("exp_avg_sq", tensor.shape))
    ]
    whole = replace(source, optimizer=AdamWConfig(), tensors=[*source.tensors, *moments])
    with pytest.raises(CheckpointError, match=r"missing: optimizer/exp_avg_sq/head\.bias"):
        write_adopted(replace(whole, tensors=whole.tensors[:-1]), tmp_path / "run")
    with pytest.raises(CheckpointError, match="not said to be AdamW"):
        write_adopted(replace(whole, optimizer=None), tmp_path / "run")
    folder = write_adopted(whole, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["run"]["optimizer"] == AdamWConfig().model_dump(mode="json")
    assert len(manifest["tensors"]) == 4 * len(source.tensors)
