"""Every preset says exactly how many parameters its model has, and the reference page says the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from mypt_dist.config import load_mapping
from mypt_dist.config.presets import folder
from mypt_dist.models import ModelConfig, any_model
from mypt_dist.training.config import TrainConfig

FOLDER = folder("configs") / "presets"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "presets.md"

PUBLISHED = {
    "tiny": 11_510_784,
    "small": 30_105_984,
    "150m": 152_447_616,
    "200m": 199_637_888,
    "250m": 253_316_224,
    "350m": 354_847_872,
    "500m": 537_919_104,
    "750m-unified": 698_911_104,
}
"""The counts that MyPT's users know."""

UNTIED = {
    "micro": 6_692_608,
    "tiny": 21_169_152,
    "small": 49_422_720,
    "150m": 191_081_088,
    "200m": 244_710_272,
    "250m": 304_827_520,
    "350m": 406_359_168,
    "500m": 602_308_224,
}

SHAPES = {  # layers, heads, width, context, batch, dropout
    "micro": (4, 4, 64, 64, 16, 0.01),
    "tiny": (4, 4, 192, 128, 16, 0.1),
    "small": (6, 6, 384, 256, 32, 0.2),
    "150m": (16, 12, 768, 512, 32, 0.2),
    "200m": (16, 14, 896, 256, 32, 0.2),
    "250m": (16, 16, 1024, 256, 32, 0.2),
    "150m-1024": (16, 12, 768, 1024, 24, 0.2),
    "200m-1024": (16, 14, 896, 1024, 20, 0.2),
    "250m-1024": (16, 16, 1024, 1024, 16, 0.2),
    "350m": (24, 16, 1024, 1024, 12, 0.2),
    "500m": (24, 16, 1280, 1024, 8, 0.2),
    "750m": (24, 24, 1536, 1024, 16, 0.1),
    "750m-deep": (36, 18, 1152, 1024, 10, 0.2),
    "750m-reasoning": (32, 20, 1280, 1024, 12, 0.2),
    "tiny_char": (4, 4, 192, 128, 16, 0.1),
    "small_char": (6, 6, 384, 256, 32, 0.2),
}


def _read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def _model(name: str) -> ModelConfig:
    model: ModelConfig = TypeAdapter(any_model()).validate_python(load_mapping(name)["model"])
    return model


def _count(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build().parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_states_its_exact_number_of_parameters(name: str) -> None:
    about, config = _read(name)["about"], _model(name)
    assert config.vocab_size in (None, about["vocab_size"])
    assert _count(config.with_vocabulary(about["vocab_size"])) == about["parameters"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_counts_that_users_know_are_unchanged(name: str) -> None:
    assert _read(name)["about"]["parameters"] == PUBLISHED[name]


@pytest.mark.parametrize("name", UNTIED)
def test_untied_they_have_the_classic_counts(name: str) -> None:
    assert _count(_model(name).model_copy(update={"tie_embeddings": False})) == UNTIED[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_are_those_of_the_predecessor(name: str) -> None:
    config, batch = _model(name), _read(name)["train"]["batch_size"]
    shape = (config.n_layer, config.n_head, config.n_embd, config.context, batch, config.dropout)
    assert (config.type_name(), *shape) == ("gpt", *SHAPES[name])


@pytest.mark.parametrize("name", [name for name in SHAPES if "_char" not in name and name != "750m-reasoning"])
def test_every_size_has_a_llama_of_about_as_many_parameters(name: str) -> None:
    classic, llama = _read(name), _read(f"llama-{name}")
    assert llama["model"]["type"] == "llama"
    assert llama["about"]["parameters"] == pytest.approx(classic["about"]["parameters"], rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_partial_run_file_with_a_schema(name: str) -> None:
    preset = _read(name)
    assert list(preset) == ["$schema", "about", "model", "train", "optimizer"]
    assert preset["$schema"] == "../schema/preset.schema.json"
    assert preset["about"]["description"]
    assert preset["optimizer"]["type"] == "adamw"
    train = TrainConfig.model_validate({"steps": 1, **preset["train"]})
    for ranks in (1, 2):
        assert train.batch_size // ranks % (train.micro_batch or 1) == 0


def test_the_reference_page_lists_every_preset_as_its_file_says() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [_row(name) for name in _order()]


def _order() -> list[str]:
    return sorted(NAMES, key=lambda name: (_model(name).type_name(), _read(name)["about"]["parameters"], name))


def _row(name: str) -> str:
    preset, config = _read(name), _model(name)
    cells = [
        f"`{name}`",
        config.n_layer,
        config.n_head,
        config.n_embd,
        config.context,
        preset["train"]["batch_size"],
        preset["train"].get("micro_batch", "all"),
        config.dropout,
        preset["optimizer"]["lr"],
        f"{preset['about']['parameters']:,}",
    ]
    return f"| {' | '.join(map(str, cells))} |"
