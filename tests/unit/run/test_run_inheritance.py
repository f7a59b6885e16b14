"""What a run takes over from the checkpoint that it starts from, what its own file says, and what must agree."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from given_models import give_model

from mypt_dist.checkpoint import CorruptError
from mypt_dist.errors import ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig
from mypt_dist.run.config import RunConfig
from mypt_dist.run.inheritance import TAKEN, inheritance
from mypt_dist.run.schema import json_schema
from mypt_dist.tokenizers import ByteTokenizer

GPT = GPTConfig(vocab_size=320, context=32, n_layer=2, n_head=2, n_embd=16, dropout=0.3, bias_qkv=True)
LLAMA = LlamaConfig(vocab_size=320, context=32, n_layer=1, n_head=4, n_kv_head=2, n_embd=32, rope_scale=1.5)


def given(folder: Path, model: ModelConfig) -> Path:
    return give_model(folder / model.type_name(), model, ByteTokenizer())[0]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return given(tmp_path_factory.mktemp("gpt"), GPT)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return given(tmp_path_factory.mktemp("llama"), LLAMA)


def started(path: Path, tmp_path: Path, **model: Any) -> ModelConfig:
    mapping = {
        "out": str(tmp_path / "run"),
        "start_from": {"path": str(path)},
        "data": {"path": "data"},
        "train": {"steps": 1, "batch_size": 1},
    }
    return RunConfig.of({**mapping, "model": model} if model else mapping, "run.json").model


def test_without_a_model_section_everything_but_what_belongs_to_training_is_inherited(
    gpt: Path, tmp_path: Path
) -> None:
    assert started(gpt, tmp_path) == GPT.model_copy(update={"dropout": 0.0})


def test_a_folder_of_a_run_means_its_newest_checkpoint(gpt: Path, tmp_path: Path) -> None:
    assert started(gpt.parents[1], tmp_path).n_embd == GPT.n_embd


def test_dropout_and_recomputing_are_the_run_files(gpt: Path, tmp_path: Path) -> None:
    model = started(gpt, tmp_path, dropout=0.1, activation_checkpointing=True)
    assert model == GPT.model_copy(update={"dropout": 0.1, "activation_checkpointing": True})


def test_what_agrees_may_be_said_and_null_says_nothing(gpt: Path, llama: Path, tmp_path: Path) -> None:
    model = started(gpt, tmp_path, type="gpt", n_layer=2, vocab_size=None, bias_qkv=True, context=None)
    assert model == GPT.model_copy(update={"dropout": 0.0})
    # Written out what the source's file left to be computed.
    assert started(llama, tmp_path, head_dim=8, mlp_hidden=128) == LLAMA.model_copy(
        update={"head_dim": 8, "mlp_hidden": 128}
    )


DIFFERENT = {
    "type": "llama",
    "vocab_size": 384,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 32,
    "activation": "relu",
    "tie_embeddings": False,
    "bias_qkv": False,
    "bias_attention_out": False,
    "bias_mlp": False,
    "bias_norm": False,
    "bias_head": False,
}


def test_every_key_is_inherited_or_refused_or_known_to_be_free() -> None:
    assert GPTConfig.model_fields.keys() == DIFFERENT.keys() | {*TAKEN, "context"}


@pytest.mark.parametrize("key", DIFFERENT)
def test_another_architecture_is_refused_with_both_values(key: str, gpt: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        started(gpt, tmp_path, **{key: DIFFERENT[key]})
    assert f"  model.{key}: {GPT.model_dump()[key]!r} there, {DIFFERENT[key]!r} here" in str(error.value).splitlines()
    assert "only these may differ: dropout, activation_checkpointing, context" in str(error.value)


def test_all_that_differs_is_told_at_once_and_typos_by_the_schema(gpt: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        started(gpt, tmp_path, n_layer=4, n_embd=64, dropout=0.2)
    assert "n_layer" in str(error.value)
    assert "n_embd" in str(error.value)
    assert "dropout:" not in str(error.value)
    with pytest.raises(ConfigError, match=r"model\.dropout_: unknown key, did you mean 'dropout'"):
        started(gpt, tmp_path, dropout_=0.1)
    with pytest.raises(ConfigError, match=r"model\.context: .* got 'long'"):
        started(gpt, tmp_path, context="long")


def test_learned_positions_can_be_fewer_but_not_more(gpt: Path, tmp_path: Path) -> None:
    assert started(gpt, tmp_path, context=16).context == 16
    with pytest.raises(ConfigError, match=r"model\.context 64 is longer than the 32 positions .* has learned"):
        started(gpt, tmp_path, context=64)


def test_rotary_positions_are_stretched_by_as_much_as_the_context(llama: Path, tmp_path: Path) -> None:
    longer, shorter = started(llama, tmp_path, context=64), started(llama, tmp_path, context=16)
    assert longer == LLAMA.model_copy(update={"context": 64, "rope_scale": 3.0})
    assert shorter == LLAMA.model_copy(update={"context": 16})


@pytest.mark.parametrize(
    ("said", "scale"), [({"rope_scale": 2.0}, 2.0), ({"rope_scale": 1.5}, 1.5), ({"rope_theta": 1e6}, 1.5)]
)
def test_who_says_how_positions_are_stretched_is_obeyed(
    said: dict[str, float], scale: float, llama: Path, tmp_path: Path
) -> None:
    assert started(llama, tmp_path, context=64, **said) == LLAMA.model_copy(
        update={"context": 64, "rope_scale": scale, **said}
    )


def test_positions_are_not_turned_otherwise_without_a_longer_context(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.rope_theta: 10000\.0 there, 5 here"):
        started(llama, tmp_path, rope_theta=5)


def test_the_table_names_the_rule_of_every_setting() -> None:
    model = LLAMA.with_context(64).model_copy(update={"dropout": 0.2})
    rules = {row.key: (row.there, row.here, row.rule) for row in inheritance(LLAMA, model)}
    assert rules.keys() == {f"model.{key}" for key in LLAMA.model_dump()}
    assert rules["model.dropout"] == (0.0, 0.2, "from the run file")
    assert rules["model.context"] == (32, 64, "changed")
    assert rules["model.rope_scale"] == (1.5, 3.0, "changed")
    assert rules["model.n_head"] == (4, 4, "inherited")


def test_where_nothing_can_be_started_from_the_run_file_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, why in (("nowhere", "there is no folder"), ("hub", "mypt ckpt import hf"), ("empty", "no checkpoint in")):
        with pytest.raises(ConfigError, match=rf"start_from\.path: .*{why}"):
            started(tmp_path / path, tmp_path)


def test_a_damaged_checkpoint_is_another_kind_of_error(gpt: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(gpt, tmp_path / gpt.name)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptError):
        started(copy, tmp_path)


def test_a_run_that_has_saved_inherits_from_itself(gpt: Path, llama: Path, tmp_path: Path) -> None:
    # Its own checkpoint was written with a longer context; what it was started from is gone.
    grown = LLAMA.with_context(64).model_copy(update={"vocab_size": 384, "dropout": 0.5})
    give_model(tmp_path / "run", grown, ByteTokenizer())
    for said in ({}, {"context": 64}, {"vocab_size": 320}):
        assert started(tmp_path / "gone", tmp_path, **said) == grown.model_copy(update={"dropout": 0.0})
    # Not refused here: a resume tells every change, of any section, in one list.
    assert started(tmp_path / "gone", tmp_path, n_layer=5).n_layer == 5


def test_schemas_let_the_model_be_left_out_only_with_a_start() -> None:
    check = jsonschema.Draft202012Validator(json_schema("run"))
    rest = json.loads('{"data": {"path": "data"}, "train": {"steps": 1, "batch_size": 1}}')
    assert check.is_valid({**rest, "start_from": {"path": "runs/base"}})
    assert not check.is_valid(rest)
    assert not check.is_valid({"start_from": {"path": "runs/base"}})
