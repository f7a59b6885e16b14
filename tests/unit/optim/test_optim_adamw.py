"""AdamW: one step by hand, groups, and what its schema refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from mypt_dist.config import validate
from mypt_dist.errors import ConfigError
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.config import RunConfig


def _config(**settings: Any) -> AdamWConfig:
    return validate(AdamWConfig, settings, "it")


def test_one_step_by_hand() -> None:
    """Corrected for its start, the first moment is the gradient and the second its square: the step is lr, signed."""
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(2.0)
    optimizer = _config(lr=0.1, weight_decay=0.5).build(layer)
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), -3.0)
    optimizer.step()
    assert float(layer.weight.detach()) == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1)
    assert float(layer.bias.detach()) == pytest.approx(2.0 + 0.1), "vectors are not decayed"


def test_a_rule_scales_the_rate_and_may_decay_a_vector() -> None:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.bias.fill_(2.0)
    optimizer = _config(lr=0.1, groups=[{"match": "bias", "lr_scale": 0.5, "weight_decay": 0.4}]).build(layer)
    layer.bias.grad = torch.ones(1)
    optimizer.step()
    assert float(layer.bias.detach()) == pytest.approx(2.0 - 0.05 * 0.4 * 2.0 - 0.05)


def test_without_rules_there_are_matrices_and_vectors() -> None:
    groups = _config(weight_decay=0.3).build(nn.Linear(2, 2)).param_groups
    assert [(g["algorithm"], g["weight_decay"], g["fused"]) for g in groups] == [
        ("adamw", 0.3, True),
        ("adamw", 0.0, True),
    ]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            {"type": "adamw", "groups": [{"match": "*", "algorithm": "muon"}]},
            "optimizer.groups.0.algorithm: input should be 'adamw', got 'muon'",
        ),
        ({"type": "adamw", "groups": [{"match": "*", "lr": 1}]}, "optimizer.groups.0.lr: unknown key"),
        ({"type": "adamw", "groups": [{"lr_scale": 0.5}]}, "optimizer.groups.0.match: is missing"),
        (
            {"type": "adamw", "groups": [{"match": "*", "lr_scale": 0}]},
            "optimizer.groups.0.lr_scale: input should be gr",
        ),
        ({"type": "adamw", "betas": [0.9, 1.0]}, "optimizer.betas.1: input should be less than 1, got 1.0"),
        ({"type": "muon", "ns_steps": 100}, "optimizer.ns_steps: input should be less than 100, got 100"),
    ],
)
def test_impossible_settings_are_told_with_their_key(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, {"optimizer": optimizer}, "it")
    assert message in str(caught.value)
