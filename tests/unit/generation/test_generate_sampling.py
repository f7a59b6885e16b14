"""Named settings, and what is refused."""

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.generation import PRESETS, SamplingConfig, sampling_from


def test_the_presets_are_those_that_users_know() -> None:
    values = {
        name: (preset.temperature, preset.top_k, preset.top_p, preset.penalty) for name, preset in PRESETS.items()
    }
    assert values == {
        "chat": (0.7, 50, 0.9, 1.1),
        "creative": (1.0, 100, 0.95, 1.2),
        "factual": (0.3, 10, 0.8, 1.0),
        "code": (0.2, 40, 0.95, 1.0),
        "deterministic": (0.0, 1, 1.0, 1.0),
    }


def test_the_defaults_are_those_that_users_know() -> None:
    default = sampling_from(None, {})
    assert (default.temperature, default.top_k, default.top_p, default.penalty) == (0.8, 50, 0.95, 1.1)
    assert default.repetition_window == 256


def test_overrides_win_over_a_preset() -> None:
    sampling = sampling_from("creative", {"top_k": 7, "seed": 3})
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.penalty) == (1.0, 7, 3, 1.2)


def test_greedy_is_a_plain_argmax_unless_a_penalty_is_asked_for() -> None:
    assert sampling_from(None, {"temperature": 0}).penalty == 1
    assert sampling_from(None, {"temperature": 0, "repetition_penalty": 1.3}).penalty == 1.3


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no sampling preset 'creativ', did you mean 'creative'"):
        sampling_from("creativ", {})


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"repetition_penalty": 0},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"temprature": 1},
    ],
    ids=str,
)
def test_impossible_settings_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        sampling_from(None, bad)


def test_stop_tokens_are_names_or_ids() -> None:
    assert sampling_from(None, {"stop": ["<|user|>", 5]}).stop == ("<|user|>", 5)
    assert SamplingConfig().stop is None
