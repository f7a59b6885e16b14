"""What every registered optimizer must do, on every registered model. A new one is tested here without a new line."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.optim import Optimizer

from mypt_dist.config import validate
from mypt_dist.models import MODELS
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.optim import OPTIMIZERS, OptimizerConfig

VOCAB = 61


@pytest.fixture(params=OPTIMIZERS.names())
def config(request: pytest.FixtureRequest) -> OptimizerConfig:
    return OPTIMIZERS[request.param](lr=0.01)


@pytest.fixture(params=MODELS.names())
def model(request: pytest.FixtureRequest) -> CausalLM:
    torch.manual_seed(0)
    return MODELS[request.param].tiny(vocab_size=VOCAB).build()


def _ids() -> torch.Tensor:
    return torch.randint(VOCAB, (4, 12), generator=torch.Generator().manual_seed(1))


def _step(model: CausalLM, optimizer: Optimizer) -> float:
    """One update on a fixed batch. Returns the loss before it."""
    ids = _ids()
    loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _weights(model: CausalLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none(
    config: OptimizerConfig, model: CausalLM
) -> None:
    frozen = list(model.blocks.parameters())[:3]
    for parameter in frozen:
        parameter.requires_grad_(False)
    grouped = [id(p) for group in config.build(model).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert frozen


def test_a_group_says_how_it_is_updated_and_decays_no_vectors(config: OptimizerConfig, model: CausalLM) -> None:
    for group in config.build(model).param_groups:
        assert group["lr"] == config.lr
        assert isinstance(group["algorithm"], str)
        assert group["weight_decay"] == 0 or all(p.ndim >= 2 for p in group["params"])


def test_a_rule_changes_the_settings_of_what_it_matches(config: OptimizerConfig, model: CausalLM) -> None:
    config = validate(
        type(config),
        {**config.model_dump(), "groups": [{"match": "norm.weight", "lr_scale": 0.5, "weight_decay": 0.25}]},
        "it",
    )
    special = [group for group in config.build(model).param_groups if group["weight_decay"] == 0.25]
    assert [len(group["params"]) for group in special] == [1]
    assert special[0]["params"][0] is model.get_parameter("norm.weight")
    assert special[0]["lr"] == config.lr / 2


def test_it_learns_a_batch_by_heart(config: OptimizerConfig, model: CausalLM) -> None:
    optimizer = config.build(model)
    first = _step(model, optimizer)
    for _ in range(20):
        _step(model, optimizer)
    assert _step(model, optimizer) < first / 2


def test_every_parameter_moves(config: OptimizerConfig, model: CausalLM) -> None:
    before = _weights(model)
    _step(model, config.build(model))
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


def test_a_step_without_gradient_or_rate_allocates_state_and_changes_nothing(
    config: OptimizerConfig, model: CausalLM
) -> None:
    """So is the state laid out that a checkpoint is then read into."""
    optimizer, before = config.build(model), _weights(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}
    assert all(state for state in optimizer.state.values())


def test_state_is_tensors_in_fp32_alone(config: OptimizerConfig, model: CausalLM) -> None:
    optimizer = config.build(model)
    _step(model, optimizer)
    for parameter, state in optimizer.state.items():
        for value in state.values():
            assert isinstance(value, torch.Tensor)
            assert value.dtype == torch.float32
            assert value.shape in ((), parameter.shape)


def test_the_rates_that_are_written_into_groups_are_used(config: OptimizerConfig, model: CausalLM) -> None:
    for number in range(len(config.build(model).param_groups)):
        changing = copy.deepcopy(model)
        optimizer = config.build(changing)
        stopped = optimizer.param_groups[number]
        stopped["lr"] = 0.0
        _step(changing, optimizer)
        held = {id(p) for p in stopped["params"]}
        for now, before in zip(changing.parameters(), model.parameters(), strict=True):
            assert torch.equal(now, before) == (id(now) in held)


def test_a_copy_that_loads_the_state_goes_on_alike(config: OptimizerConfig, model: CausalLM) -> None:
    optimizer = config.build(model)
    for _ in range(2):
        _step(model, optimizer)
    other = copy.deepcopy(model)
    resumed = config.build(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        assert _step(other, resumed) == _step(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_config_survives_json(config: OptimizerConfig) -> None:
    assert validate(type(config), config.model_dump(mode="json"), "it") == config


def test_looking_at_every_optimizer_loads_no_torch() -> None:
    code = (
        "import sys; from mypt_dist.optim import OPTIMIZERS, any_optimizer; any_optimizer()\n"
        "[OPTIMIZERS[name]() for name in OPTIMIZERS.names()]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
