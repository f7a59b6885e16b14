"""The formula of every architecture, against the module that it speaks of."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.config import load_mapping
from mypt_dist.config.presets import folder
from mypt_dist.errors import ConfigError
from mypt_dist.models import MODELS, ModelConfig
from mypt_dist.models.formula import PARTS, SYMBOLS, Formula
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.models.llama import LlamaConfig

PRESETS = sorted(path.stem for path in (folder("configs") / "presets").glob("*.json"))
SMALL = st.integers(1, 4)
BOOL = st.booleans()


def built(config: ModelConfig) -> CausalLM:
    with torch.device("meta"):
        return config.build()


def parts_of(model: CausalLM) -> dict[str, int]:
    """Parameters by what their names say, in the words of a formula."""
    where = {"embed": "embedding", "positions": "positions", "norm": "norm", "head": "head"}
    found = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        first, *rest = name.split(".")
        part = where[first] if first != "blocks" else rest[1].partition("_")[0]
        found["norm" if part == "norm" else part] += parameter.numel()  # type: ignore[index]
    return dict(found)


@st.composite
def gpts(draw: Any) -> GPTConfig:
    heads, flags = draw(SMALL), ("tie_embeddings", "bias_qkv", "bias_attention_out", "bias_mlp", "bias_norm")
    return GPTConfig(
        vocab_size=draw(st.integers(2, 99)),
        context=draw(st.integers(1, 40)),
        n_layer=draw(SMALL),
        n_head=heads,
        n_embd=heads * draw(st.integers(1, 9)),
        **{flag: draw(BOOL) for flag in (*flags, "bias_head")},
    )


@st.composite
def llamas(draw: Any) -> LlamaConfig:
    shared, head_dim = draw(SMALL), 2 * draw(SMALL)
    kv_heads = draw(SMALL)
    own = draw(BOOL)
    return LlamaConfig(
        vocab_size=draw(st.integers(2, 99)),
        context=draw(st.integers(1, 40)),
        n_layer=draw(SMALL),
        n_head=kv_heads * shared,
        n_kv_head=kv_heads,
        n_embd=draw(st.integers(1, 40)) if own else kv_heads * shared * head_dim,
        head_dim=head_dim if own else None,
        mlp_hidden=draw(st.none() | st.integers(1, 50)),
        **{flag: draw(BOOL) for flag in ("tie_embeddings", "qk_norm", "bias_head")},
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_and_operations_that_its_formula_says(name: str) -> None:
    about = json.loads((folder("configs") / "presets" / f"{name}.json").read_text())["about"]
    mapping = load_mapping(name)["model"]
    config = MODELS[mapping["type"]].model_validate(mapping).with_vocabulary(about["vocab_size"])
    formula, model = config.formula(), built(config)
    assert formula.parameters == about["parameters"]
    assert formula.parts() == parts_of(model)
    assert formula.flops_per_token(config.context) == model.flops_per_token(config.context)


@given(gpts() | llamas(), st.integers(1, 99))
@settings(deadline=None, max_examples=60)
def test_any_model_has_the_parameters_and_operations_that_its_formula_says(config: ModelConfig, length: int) -> None:
    formula, model = config.formula(), built(config)
    assert formula.parts() == parts_of(model)
    assert formula.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert formula.flops_per_token(length) == model.flops_per_token(length)
    cache = model.new_cache(3, 1)
    assert 3 * formula.cached_per_token == cache.keys.numel() + cache.values.numel()


@pytest.mark.parametrize("kind", MODELS.names())
def test_every_architecture_has_a_formula_and_needs_a_vocabulary_for_it(kind: str) -> None:
    config = MODELS[kind].tiny(vocab_size=61)
    assert config.formula().parameters == sum(p.numel() for p in built(config).parameters())
    with pytest.raises(ConfigError, match="vocab_size is null"):
        config.model_copy(update={"vocab_size": None}).formula()


def worked_out(text: str) -> int:
    """The number that a filled-in formula is."""
    powers = str.maketrans({"²": "2", "³": "3"})
    total = 0
    for product in text.split(" + "):
        value = 1
        for factor in product.split("·"):
            base, power = (factor[:-1], int(factor[-1].translate(powers))) if factor[-1] in "²³" else (factor, 1)
            value *= int(base) ** power
        total += value
    return total


@given(gpts() | llamas())
@settings(deadline=None, max_examples=60)
def test_the_formula_that_is_shown_gives_the_number_that_is_shown(config: ModelConfig) -> None:
    formula = config.formula()
    assert worked_out(formula.text(filled=True)) == formula.parameters
    for part, count in formula.parts().items():
        assert worked_out(formula.text(part, filled=True)) == count
    assert set(formula.values) == (set(SYMBOLS))


def test_untied_and_with_all_biases_it_is_the_classic_formula() -> None:
    config = GPTConfig(vocab_size=50304, context=64, n_layer=4, n_head=4, n_embd=64, tie_embeddings=False)
    formula: Formula = config.formula()
    v, t, e, layers = 50304, 64, 64, 4
    assert formula.parameters == v * e + t * e + layers * (12 * e**2 + 10 * e) + 2 * e + v * e + v == 6_692_608
    assert formula.text("mlp") == "8·L·E² + 5·L·E"
    assert formula.text("mlp", filled=True) == "8·4·64² + 5·4·64"
