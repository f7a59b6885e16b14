"""What is refused in the ``model`` section of a run file, and how it is said."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from mypt_dist.config import Config, validate
from mypt_dist.errors import ConfigError
from mypt_dist.models import any_model, require_divisor

SIZES = {"vocab_size": 64, "context": 8, "n_layer": 1, "n_head": 4, "n_embd": 24}


class _RunFile(Config):
    model: any_model()  # type: ignore[valid-type]


def _refusal(**model: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(_RunFile, {"model": {**SIZES, **model}}, "a.json")
    return str(caught.value)


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_heads_must_divide_the_width(kind: str) -> None:
    message = _refusal(type=kind, n_head=5)
    assert "model: n_head 5 must divide n_embd 24: one of 1, 2, 3, 4, 6, 8, 12, 24" in message


def test_shared_heads_must_divide_the_heads() -> None:
    assert "model: n_kv_head 3 must divide n_head 4: one of 1, 2, 4" in _refusal(type="llama", n_kv_head=3)


def test_rotary_heads_have_an_even_width() -> None:
    message = _refusal(type="llama", n_head=8)
    assert "n_embd 24 / n_head 8 gives heads of odd width 3" in message
    assert "n_head must be one of 1, 2, 3, 4, 6, 12, or head_dim be set" in message
    assert "n_embd must be even" in _refusal(type="llama", n_head=5, n_embd=15)
    assert "head_dim 7 must be even" in _refusal(type="llama", head_dim=7)


def test_a_head_width_of_its_own_frees_the_number_of_heads() -> None:
    validate(_RunFile, {"model": {**SIZES, "type": "llama", "n_head": 5, "head_dim": 6}}, "a.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dropout": 1.0}, "model.dropout"),
        ({"dropout": -0.1}, "model.dropout"),
        ({"n_layer": 0}, "model.n_layer"),
        ({"context": 0}, "model.context"),
        ({"vocab_size": 1}, "model.vocab_size"),
        ({"activation": "swish"}, "model.activation"),
        ({"n_kv_head": 2}, "model.n_kv_head: unknown key"),
    ],
    ids=str,
)
def test_impossible_values_are_named(change: dict[str, Any], said: str) -> None:
    assert said in _refusal(type="gpt", **change)


def test_every_divisor_is_offered_and_nothing_else() -> None:
    require_divisor("a", 3, "b", 6)
    with pytest.raises(ValueError, match=r"a 4 must divide b 6: one of 1, 2, 3, 6$"):
        require_divisor("a", 4, "b", 6)


def test_the_schema_describes_its_fields() -> None:
    schema = TypeAdapter(any_model()).json_schema()
    assert "attention weights" in schema["$defs"]["GPTConfig"]["properties"]["dropout"]["description"]
