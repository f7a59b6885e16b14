"""A run begins with trained weights: bit by bit, with rows for new tokens, whatever ranges an engine asks for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_runs import losses, manifest
from given_models import give_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig
from mypt_dist.run.build import train
from mypt_dist.run.checkpointing import reader
from mypt_dist.run.config import RunConfig
from mypt_dist.run.starting import StartReader, vocabulary_tables
from mypt_dist.tokenizers import ByteTokenizer
from mypt_dist.tokenizers.agreement import added_specials
from mypt_dist.tokenizers.special import SPECIAL_NAMES, special_ids

FEW = ByteTokenizer({name: 256 + i for i, name in enumerate(SPECIAL_NAMES[:3])})
"""A tokenizer from before there were more control tokens."""
SMALL = GPTConfig(vocab_size=260, context=16, n_layer=1, n_head=2, n_embd=6, tie_embeddings=False)
GROWN = SMALL.model_copy(update={"vocab_size": 320, "context": 8})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_model(tmp_path_factory.mktemp("small") / "base", SMALL, FEW)[0]


def test_tables_are_the_embedding_and_the_head() -> None:
    assert vocabulary_tables(SMALL) == {"embed.weight", "head.weight", "head.bias"}
    assert vocabulary_tables(LlamaConfig.tiny(64)) == {"embed.weight"}


NAMES = {name: p.shape for name, p in GROWN.build().named_parameters()}


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(NAMES)), cut=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_any_range_of_a_shard_is_that_of_the_whole(name: str, cut: tuple[float, float], small: Path) -> None:
    with open_checkpoint(small) as checkpoint:
        read = StartReader(checkpoint, vocabulary_tables(GROWN), FEW.vocab_size, fresh=[259])
        whole = torch.empty(NAMES[name].numel())
        read(f"model/{name}", tuple(NAMES[name]), 0, whole)
        first, last = sorted(int(part * whole.numel()) for part in cut)
        piece = torch.empty(last - first)
        read(f"model/{name}", tuple(NAMES[name]), first, piece)
    assert torch.equal(piece, whole[first:last])


def test_known_rows_are_kept_and_new_ones_are_their_mean(small: Path) -> None:
    with open_checkpoint(small) as checkpoint:
        read = StartReader(checkpoint, vocabulary_tables(GROWN), FEW.vocab_size, fresh=[259])

        def loaded(name: str) -> Tensor:
            into = torch.empty(NAMES[name].numel())
            read(f"model/{name}", tuple(NAMES[name]), 0, into)
            return into.view(NAMES[name])

        for name in ("embed.weight", "head.weight", "head.bias"):
            shape = (SMALL.rows, *NAMES[name][1:])
            saved = torch.empty(torch.Size(shape).numel())
            reader(checkpoint)(f"model/{name}", shape, 0, saved)
            new = loaded(name)
            assert torch.equal(new[:259], saved.view(shape)[:259])
            assert torch.allclose(new[259:], saved.view(shape)[:259].mean(dim=0).expand_as(new[259:]), atol=1e-7)
        assert len(loaded("positions.weight")) == GROWN.context


def test_a_tensor_of_another_shape_is_of_another_model(small: Path) -> None:
    with open_checkpoint(small) as checkpoint, pytest.raises(CheckpointError, match="of another model"):
        StartReader(checkpoint, (), 0)("model/positions.weight", (16, 7), 0, torch.empty(112))


def test_tokens_are_never_mapped_or_guessed() -> None:
    now = ByteTokenizer()
    assert added_specials(FEW, now) == {n: i for n, i in special_ids(256).items() if i >= FEW.vocab_size}
    assert added_specials(now, FEW) == {}
    swapped = {**special_ids(256), "<|user|>": 257, "<|system|>": 259}
    with pytest.raises(ConfigError, match=r"<\|user\|> is 259 in its tokenizer, 257 in the data's"):
        added_specials(now, ByteTokenizer(swapped))
    renamed = {{"<|user|>": "<|human|>"}.get(name, name): token for name, token in special_ids(256).items()}
    with pytest.raises(ConfigError, match=r"token 259 is <\|user\|> in its tokenizer, <\|human\|> in the data's"):
        added_specials(now, ByteTokenizer(renamed))


def begin(path: Path, mapping: dict[str, Any], *overrides: str, **sections: Any) -> Path:
    """Train the run of ``mapping``, in ``path``, and return its folder."""
    rest = {key: value for key, value in mapping.items() if key != "model"}
    run = {**rest, "out": str(path), "name": path.name, "checkpoints": {"keep_last": 9, "background": False}}
    file = path.with_suffix(".json")
    file.write_text(json.dumps({**run, **sections}))
    return train(RunConfig.load(str(file), overrides)).folder


@pytest.fixture
def base(run_mapping: dict[str, Any], tmp_path: Path) -> Path:
    return begin(tmp_path / "base", run_mapping, model=run_mapping["model"])


def weights(run: Path, step: int) -> dict[str, bytes]:
    found = {}
    with open_checkpoint(run / f"checkpoints/step-{step:08}") as checkpoint:
        for name, tensor in checkpoint.manifest.tensors.items():
            buffer = bytearray(4 * tensor.elements)
            checkpoint.read_into(name, 0, tensor.elements, buffer)
            found[name] = bytes(buffer)
    return found


def test_a_run_goes_on_from_anothers_weights_at_step_0_and_says_so(
    base: Path, run_mapping: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = {"path": str(base)}
    # A rate at which nothing moves shows what was loaded.
    still = begin(
        tmp_path / "still", run_mapping, "optimizer.lr=1e-30", "train.steps=1", start_from=start, model={"dropout": 0.2}
    )
    before, after = weights(base, 6), weights(still, 1)
    assert {n: w for n, w in before.items() if n.startswith("model/")} == {
        n: w for n, w in after.items() if n.startswith("model/")
    }
    assert after["optimizer/step/embed.weight"] == torch.tensor(1.0).numpy().tobytes(), "moments are fresh"
    said = manifest(still, 1)
    assert said.run["model"]["dropout"] == 0.2  # type: ignore[index,call-overload]
    assert said.origin is not None
    assert (said.origin["run"], said.origin["step"]) == ("base", 6)
    assert said.origin["sha256"] == manifest(base, 6).sha256
    assert said.origin["inheritance"]["model.dropout"] == {  # type: ignore[index,call-overload]
        "there": 0.1,
        "here": 0.2,
        "rule": "from the run file",
    }
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert "model.dropout 0.1 0.2 from the run file" in lines
    assert "model.n_embd 32 32 inherited" in lines
    assert "tokenizer byte of 274 ids the same must agree" in lines


def test_a_resume_needs_the_start_no_more_and_a_chain_remembers_its_beginning(
    base: Path, run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    start = {"path": str(base)}
    run = begin(tmp_path / "run", run_mapping, "train.stop_after=3", start_from=start)
    whole = begin(tmp_path / "whole", run_mapping, start_from=start)
    shutil.rmtree(base)
    begin(tmp_path / "run", run_mapping, start_from=start)
    assert weights(run, 6) == weights(whole, 6)
    assert losses(run) == losses(whole)
    assert manifest(run, 6).origin == manifest(run, 3).origin == manifest(whole, 6).origin
    with pytest.raises(ConfigError, match=r"start_from\.path: .*base' there, 'elsewhere' here"):
        begin(tmp_path / "run", run_mapping, "train.steps=7", start_from={"path": "elsewhere"})
    third = begin(tmp_path / "third", run_mapping, "train.steps=1", start_from={"path": str(run)})
    origin = manifest(third, 1).origin
    assert origin is not None
    assert origin["run"] == "run"
    assert origin["origin"]["run"] == "base"  # type: ignore[index,call-overload]
    assert "inheritance" not in origin["origin"]  # type: ignore[operator]


def test_moments_are_kept_on_request_and_only_of_the_same_optimizer(
    base: Path, run_mapping: dict[str, Any], tmp_path: Path, small: Path
) -> None:
    kept = {"path": str(base), "optimizer": "kept"}
    run = begin(tmp_path / "kept", run_mapping, "train.steps=1", start_from=kept)
    assert weights(run, 1)["optimizer/step/embed.weight"] == torch.tensor(7.0).numpy().tobytes()
    with open_checkpoint(base) as checkpoint:
        into = torch.empty(384 * 32)
        name, saved = "optimizer/exp_avg/embed.weight", torch.empty(320 * 32)
        StartReader(checkpoint, {"embed.weight"}, 274)(name, (384, 32), 0, into)
        reader(checkpoint)(name, (320, 32), 0, saved)
    assert torch.equal(into, torch.cat((saved, torch.zeros(64 * 32)))), "new tokens have no history"
    assert saved.abs().sum() > 0
    with pytest.raises(ConfigError, match=r"start_from\.optimizer: kept: .* has the state of adamw, .* wants muon"):
        begin(tmp_path / "muon", run_mapping, start_from=kept, optimizer={"type": "muon"})
    with pytest.raises(ConfigError, match=r"start_from\.optimizer: kept: .* has the state of None"):
        begin(tmp_path / "given", run_mapping, start_from={**kept, "path": str(small)})
    assert not (tmp_path / "muon").exists(), "refused before anything is written"


def test_a_tokenizer_with_more_control_tokens_grows_the_model(
    small: Path, run_mapping: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(tmp_path / "run", run_mapping, "train.stop_after=3", start_from={"path": str(small)})
    assert manifest(run, 3).tensors["model/embed.weight"].shape == (320, 6)
    assert manifest(run, 3).origin["added_specials"] == added_specials(FEW, ByteTokenizer())  # type: ignore[index]
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert "model.vocab_size 260 320 changed" in lines
    assert "tokenizer byte of 259 ids the same and 15 new control tokens must agree" in lines
    begin(tmp_path / "run", run_mapping, start_from={"path": str(small)})
    assert manifest(run, 6).tensors["model/embed.weight"].shape == (320, 6)


def test_data_of_another_tokenizer_is_refused_before_anything_is_written(
    run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    swapped = {**special_ids(256), "<|user|>": 257, "<|system|>": 259}
    other = give_model(tmp_path / "other", SMALL.model_copy(update={"vocab_size": 320}), ByteTokenizer(swapped))[0]
    with pytest.raises(ConfigError, match=r"does not go with the data: .* is 259 in its tokenizer, 257 in the data's"):
        begin(tmp_path / "run", run_mapping, start_from={"path": str(other)})
    assert not (tmp_path / "run").exists()


def test_changed_bytes_of_the_start_are_found(base: Path, run_mapping: dict[str, Any], tmp_path: Path) -> None:
    file = next((base / "checkpoints/step-00000006/weights").iterdir())
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="has changed"):
        begin(tmp_path / "run", run_mapping, start_from={"path": str(base)})
    assert file.parent.is_dir(), "another run's checkpoint is not set aside"


def test_frozen_weights_stay_and_the_rest_is_trained_and_resumed_exactly(
    base: Path, run_mapping: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, train = {"path": str(base)}, {**run_mapping["train"], "freeze": ["embed*", "blocks.0.*"]}
    whole = begin(tmp_path / "whole", run_mapping, start_from=start, train=train)
    cut = begin(tmp_path / "cut", run_mapping, "train.stop_after=3", start_from=start, train=train)
    begin(tmp_path / "cut", run_mapping, start_from=start, train=train)
    before, after = weights(base, 6), weights(whole, 6)
    assert weights(cut, 6) == after
    frozen = {name for name in before if name.startswith(("model/embed", "model/blocks.0."))}
    assert {name for name in before if name.startswith("model/") and before[name] == after[name]} == frozen
    assert not [n for n in after if n.startswith("optimizer/") and f"model/{n.split('/')[2]}" in frozen]
    assert "of them frozen" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"train\.freeze: \['embed\*', 'blocks\.0\.\*'\] there, \[\] here"):
        begin(tmp_path / "cut", run_mapping, start_from=start)
