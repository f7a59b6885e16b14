"""Files that execute, exhaust or lie are refused, and nothing of them is left behind."""

import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from canary_payloads import Touch, whole_files
from hostile_files import Reduced, claimed, doubled, endless, overlapping, torch_file
from outlines import QUICK, in_process
from predecessors import Theirs, save_bundle, save_single, trained

from mypt_dist.errors import CheckpointError, ConfigError, MyptError
from mypt_dist.interchange.torch_files import outline as outlining
from mypt_dist.interchange.torch_files.outline import MAX_NODES
from mypt_dist.interchange.torch_files.reading import read_torch_files
from mypt_dist.interchange.trainers.conversion import convert, convert_all
from mypt_dist.interchange.trainers.sources import find
from mypt_dist.run.models import get_model_info

FILES = ("model.pt", "optimizer.pt", "config.json", "tokenizer.json", "training_state.json")


@cache
def theirs() -> Theirs:
    return trained("heads", n_layer=1)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_bundle(theirs(), tmp_path / "there")


def refused(source: Path, out: Path, kind: type[MyptError] = CheckpointError) -> str:
    """What is said. Nothing is left, not even an empty folder."""
    with pytest.raises(kind) as caught:
        convert(find(source), out / "deep" / "run", QUICK)
    assert not (out / "deep").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_no_payload_in_any_file_is_executed_or_accepted(bundle: Path, tmp_path: Path, name: str) -> None:
    canary, original = tmp_path / "canary", (bundle / name).read_bytes()
    for payload in whole_files(canary).values():
        (bundle / name).write_bytes(payload)
        # What a run says of itself besides its step is kept as it is, and means nothing.
        harmless = name == "training_state.json" and payload.startswith((b'{"py/', b'{"__class__', b'{"\\ud800'))
        with nullcontext() if harmless else pytest.raises(MyptError):
            convert(find(bundle), tmp_path / "run", QUICK)
            get_model_info(tmp_path / "run")
        assert (tmp_path / "run").exists() == harmless
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert not canary.exists()
    (bundle / name).write_bytes(original)
    assert convert(find(bundle), tmp_path / "run", QUICK).status == "converted"


@pytest.mark.parametrize("place", ["weights", "config", "beside"])
def test_a_call_hidden_among_tensors_is_named_and_not_made(tmp_path: Path, place: str) -> None:
    path = save_single(theirs(), tmp_path / "there/latest.pt")
    content = torch.load(path, weights_only=True)
    touch = Touch(tmp_path / "canary")
    target: dict[str, Any] = {"weights": content["model_state_dict"], "config": content["config"]}.get(place, content)
    target["more"] = touch
    torch.save(content, path)
    assert "a program that wants to use posix.system" in refused(path, tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_process_of_its_own_looks_into_files_and_executes_nothing(tmp_path: Path) -> None:
    file = torch_file(tmp_path / "model.pt", {"a": Touch(tmp_path / "canary")})
    with pytest.raises(CheckpointError, match=r"wants to use posix\.system"), read_torch_files([file]):
        pass
    assert not (tmp_path / "canary").exists()


def test_twin_that_file_does_execute_where_it_is_trusted(tmp_path: Path) -> None:
    file = torch_file(tmp_path / "model.pt", {"a": Touch(tmp_path / "canary")})
    torch.load(file, weights_only=False)
    assert (tmp_path / "canary").exists()


def test_that_process_gets_no_memory_to_waste(tmp_path: Path) -> None:
    good = torch_file(tmp_path / "good.pt", {"a": claimed("0", 2, (2,))}, {"data/0": bytes(8)})
    greedy = torch_file(tmp_path / "greedy.pt", {"a": Reduced(bytearray, 1 << 34)})
    with pytest.raises(CheckpointError, match=r"greedy\.pt is not read: MemoryError"), read_torch_files([good, greedy]):
        pass


CLAIMS: dict[str, tuple[Callable[[], Any], str]] = {
    "a storage of 10^9 elements": (lambda: claimed("0", 10**9, (10**9,)), "1,000,000,000 elements, 64 bytes are there"),
    "a storage of 10^18 elements": (lambda: claimed("0", 10**18, (10**9, 10**9)), "64 bytes are there"),
    "a shape beyond its storage": (lambda: claimed("0", 16, (4, 5)), "20 elements, 64 bytes are there"),
    "one element as 10^9": (lambda: claimed("0", 16, (10**9,), (0,)), "1,000,000,000 elements"),
    "strides beyond the storage": (lambda: claimed("0", 16, (2, 8), (9, 1)), "reach to element 17"),
    "a start beyond the storage": (lambda: claimed("0", 16, (4,), (1,), 15), "reach to element 19"),
    "a storage that is not there": (lambda: claimed("7", 16, (16,)), "is not read"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_tensor_says_of_itself_is_held_against_the_file(tmp_path: Path, claim: str) -> None:
    tensor, said = CLAIMS[claim]
    file = torch_file(tmp_path / "model.pt", {"t": tensor()}, {"data/0": bytes(64)})
    with pytest.raises(CheckpointError) as caught, read_torch_files([file], in_process):
        pass
    assert said in str(caught.value)


def test_a_tensor_that_is_told_truly_is_read_whatever_its_strides(tmp_path: Path) -> None:
    values = torch.arange(16.0)
    content = {"t": claimed("0", 16, (2, 3), (1, 4), 1)}
    file = torch_file(tmp_path / "model.pt", content, {"data/0": values.numpy().tobytes()})
    with read_torch_files([file], in_process) as (tree,):
        assert tree["t"].array().tolist() == [[1, 5, 9], [2, 6, 10]]  # type: ignore[index, call-overload, union-attr]


def test_a_torch_that_tells_the_place_of_tensors_under_fake_tensors_alone_is_asked_that_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = outlining._place
    monkeypatch.setattr(outlining, "_place", lambda tensor: None if tensor.device.type == "meta" else place(tensor))
    file = torch_file(tmp_path / "model.pt", {"t": claimed("0", 2, (2,))}, {"data/0": bytes(4) + b"\0\0\x80?"})
    with read_torch_files([file], in_process) as (tree,):
        assert tree["t"].array().tolist() == [0.0, 1.0]  # type: ignore[index, call-overload, union-attr]


UNFOLDING: dict[str, tuple[Callable[[], Any], str]] = {
    "doubling": (lambda: doubled(40), f"more than {MAX_NODES:,} values"),
    "endless": (endless, "nested too deeply"),
    "a set": (lambda: {1, 2}, ""),
    "a long number": (lambda: 10**30_000, ""),
    "a key that is a tuple": (lambda: {(1, 2): 3}, "a key is"),
}


@pytest.mark.parametrize("kind", UNFOLDING)
def test_what_unfolds_without_end_or_means_nothing_is_no_state_dict(tmp_path: Path, kind: str, bundle: Path) -> None:
    make, said = UNFOLDING[kind]
    torch_file(bundle / "model.pt", make())
    assert said in refused(bundle, tmp_path)


def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path, bundle: Path) -> None:
    model = bundle / "model.pt"
    whole = model.read_bytes()
    torch_file(model, {}, {"data/0": bytes(1 << 24)}, method=zipfile.ZIP_DEFLATED)
    assert model.stat().st_size < 1 << 18
    assert "is compressed" in refused(bundle, tmp_path)
    overlapping(model)
    assert "no whole file of torch.save" in refused(bundle, tmp_path)
    torch_file(model, {}, {"code/__torch__.py": b"import os"})
    assert "it holds a program" in refused(bundle, tmp_path)
    torch_file(model, {}, {"byteorder": b"big"})
    assert "big-endian" in refused(bundle, tmp_path)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        model.write_bytes(whole[:size])
        assert "no whole file of torch.save" in refused(bundle, tmp_path)


def test_a_changed_byte_of_a_tensor_is_found_and_nothing_is_left(tmp_path: Path, bundle: Path) -> None:
    model = bundle / "model.pt"
    with zipfile.ZipFile(model) as archive:
        entry = max((info for info in archive.infolist() if "/data/" in info.filename), key=lambda info: info.file_size)
    content = bytearray(model.read_bytes())
    content[entry.header_offset + 400] ^= 1
    model.write_bytes(content)
    assert "the checksum of a tensor in it is wrong" in refused(bundle, tmp_path)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing": (lambda state: state.pop("ln_f.weight"), "missing: ln_f.weight"),
    "a bias missing": (lambda state: state.pop("ln_f.bias"), "missing: model/norm.bias"),
    "too much": (lambda state: state.update(more=torch.zeros(3)), "too much: more"),
    "another shape": (lambda state: state.update({"ln_f.bias": torch.zeros(13)}), "model/norm.bias [13], must be [12]"),
    "rows shifted between heads": (
        lambda state: state.update(
            {f"blocks.0.sa.heads.{h}.key.weight": torch.zeros(rows, 12) for h, rows in enumerate((3, 5, 4))}
        ),
        "the parts of model/blocks.0.attention.qkv.weight differ",
    ),
    "a head fewer": (
        lambda state: [state.pop(name) for name in list(state) if ".heads.2." in name],
        "n_head 3, its tensors are of 2",
    ),
    "whole numbers": (lambda state: state.update({"ln_f.bias": torch.zeros(12, dtype=torch.int64)}), "type I64"),
    "sparse": (lambda state: state.update({"ln_f.bias": torch.zeros(12).to_sparse()}), "unlike any that a model has"),
    "no tensor": (lambda state: state.update({"ln_f.bias": [1.0] * 12}), "not a tensor"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_tensors_that_are_not_those_of_the_settings_are_named(tmp_path: Path, bundle: Path, kind: str) -> None:
    change, said = WRONG[kind]
    state = theirs().state()
    change(state)
    torch.save(state, bundle / "model.pt")
    assert said in refused(bundle, tmp_path)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "10^9 layers": ({"n_layer": 10**9}, "n_layer 1,000,000,000, its tensors are of 1"),
    "10^9 heads": ({"n_head": 12 * 10**8, "n_embd": 12 * 10**8}, "its tensors are of 3"),
    "10^9 ids": ({"vocab_size": 10**9}, "must be [1000000000, 12]"),
    "no layers": ({"n_layer": 0}, "n_layer"),
    "text for a number": ({"n_embd": "wide"}, "n_embd"),
    "heads that do not divide": ({"n_head": 5}, "must divide"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_are_not_those_of_the_tensors_are_refused(tmp_path: Path, bundle: Path, kind: str) -> None:
    change, said = SETTINGS[kind]
    (bundle / "config.json").write_text(json.dumps({**theirs().config, **change}))
    assert said in refused(bundle, tmp_path, MyptError)


def test_an_optimizer_file_elsewhere_is_not_opened(tmp_path: Path, bundle: Path) -> None:
    shutil.move(bundle / "optimizer.pt", tmp_path / "optimizer.pt")
    (bundle / "training_state.json").write_text(json.dumps({"step": 3, "optimizer_file": "../optimizer.pt"}))
    with pytest.raises(ConfigError, match="must be the name of a file beside it"):
        find(bundle)


MOMENTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "moments missing": (lambda state: state["state"].pop(3), "no moments of blocks.0.sa.heads.0.query.weight"),
    "another shape": (lambda state: state["state"][3].update(exp_avg=torch.zeros(2)), "of another shape"),
    "amsgrad": (lambda state: state["state"][3].update(max_exp_avg_sq=torch.zeros(4, 12)), "it keeps step"),
    "SGD": (lambda state: state["state"].update({i: {"momentum_buffer": None} for i in range(30)}), "AdamW keeps"),
    "steps that differ": (lambda state: state["state"][3].update(step=torch.tensor(9.0)), "step of"),
    "parameters fewer": (lambda state: state["param_groups"][0].update(params=[0, 1]), "group 0 has 2 parameters"),
    "three groups": (lambda state: state.update(param_groups=3 * state["param_groups"]), "3 groups"),
    "rates that differ": (lambda state: state["param_groups"][0].update(betas=[2.0, 0.9]), "cannot be taken over"),
    "no optimizer": (lambda state: state.pop("param_groups"), "not the state of an optimizer"),
}


@pytest.mark.parametrize("kind", MOMENTS)
def test_moments_that_do_not_fit_are_refused_and_may_be_left_behind(tmp_path: Path, bundle: Path, kind: str) -> None:
    change, said = MOMENTS[kind]
    state = theirs().optimizer.state_dict()
    # As its own file has them, which the model that is shared by these tests must not see.
    torch.save(state, bundle / "optimizer.pt")
    state = torch.load(bundle / "optimizer.pt", weights_only=True)
    change(state)
    torch.save(state, bundle / "optimizer.pt")
    told = refused(bundle, tmp_path)
    assert said in told
    assert "--weights-only" in told
    assert convert(find(bundle), tmp_path / "run", replace(QUICK, weights_only=True)).optimizer.startswith(
        "left behind"
    )


def test_a_head_that_is_said_to_be_tied_and_is_not_is_refused(tmp_path: Path) -> None:
    other = trained("modern", n_layer=1, tie_weights=False)
    other.config["tie_weights"] = True
    source = save_bundle(other, tmp_path / "there", optimizer=False)
    assert "one weight, its tensors are two" in refused(source, tmp_path)


def test_names_in_another_order_make_the_numbers_of_moments_meaningless(tmp_path: Path, bundle: Path) -> None:
    torch.save(dict(sorted(theirs().state().items())), bundle / "model.pt")
    assert "another order" in refused(bundle, tmp_path)


def test_the_sound_ones_are_converted_beside_a_hostile_one(tmp_path: Path) -> None:
    save_bundle(theirs(), tmp_path / "checkpoints/sound")
    torch_file(tmp_path / "checkpoints/hostile/latest.pt", {"a": Touch(tmp_path / "canary")})
    reports, errors = convert_all(tmp_path / "checkpoints", tmp_path / "runs", QUICK)
    assert {report.name: report.status for report in reports} == {"hostile": "refused", "sound": "converted"}
    assert [type(error) for error in errors] == [CheckpointError]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sound"]
    assert not (tmp_path / "canary").exists()
