"""Muon and AdamW as one optimizer: who updates what, and that each part is torch's own to the last bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mypt_dist.config import validate
from mypt_dist.errors import ConfigError
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.optim.muon import MuonConfig
from mypt_dist.optim.muon.combined import Combined

VOCAB = 40


def _config(**settings: Any) -> MuonConfig:
    return validate(MuonConfig, {"lr": 0.02, **settings}, "it")


def _model(**changes: Any) -> CausalLM:
    torch.manual_seed(0)
    return GPTConfig.tiny(VOCAB).model_copy(update=changes).build()


def _loss(model: CausalLM, seed: int) -> Tensor:
    ids = torch.randint(VOCAB, (3, 9), generator=torch.Generator().manual_seed(seed))
    loss: Tensor = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    return loss


def _algorithms(model: CausalLM, config: MuonConfig) -> dict[str, str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: g["algorithm"] for g in config.build(model).param_groups for p in g["params"]}


def _plain(model: CausalLM, **muon: Any) -> list[torch.optim.Optimizer]:
    """Written out again, by names."""
    inside = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    outside = [p for name, p in model.named_parameters() if not name.startswith("blocks.") and p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    adamw = [{"params": outside, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.AdamW(adamw, lr=0.02, betas=(0.9, 0.95), eps=1e-8, fused=True),
        torch.optim.Muon(inside, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", **muon),
    ]


@pytest.mark.parametrize("tie", [True, False])
def test_matrices_inside_the_blocks_go_to_muon_and_all_else_to_adamw(tie: bool) -> None:
    for name, algorithm in _algorithms(_model(tie_embeddings=tie), _config()).items():
        is_hidden_matrix = name.startswith("blocks.") and name.endswith(
            ("qkv.weight", "out.weight", "up.weight", "down.weight")
        )
        assert (algorithm == "muon") == is_hidden_matrix, name


def test_a_model_that_names_no_head_has_none() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "hidden": nn.Linear(3, 3)})
    groups = _config().build(model).param_groups
    assert [[tuple(p.shape) for p in g["params"]] for g in groups if g["algorithm"] == "muon"] == [[(3, 3)]]


@pytest.mark.parametrize("muon", [{}, {"momentum": 0.8, "nesterov": False, "ns_steps": 3}], ids=str)
def test_the_combination_is_bitwise_the_two_apart(muon: dict[str, Any]) -> None:
    model = _model()
    twin = copy.deepcopy(model)
    optimizer, plain = _config(**muon).build(model), _plain(twin, **muon)
    for seed in range(4):
        _loss(model, seed).backward()
        optimizer.step()
        optimizer.zero_grad()
        _loss(twin, seed).backward()
        for part in plain:
            part.step()
            part.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    twins = dict(zip(twin.parameters(), model.parameters(), strict=True))
    for part in plain:
        for parameter, state in part.state.items():
            mine = optimizer.state[twins[parameter]]
            assert mine.keys() == state.keys()
            assert all(torch.equal(mine[key], state[key]) for key in state)


def test_one_step_by_hand() -> None:
    """A gradient of rank 1 has one singular value. Normalised it is 1, and each step maps s to as + bs³ + cs⁵."""
    rows, columns = 6, 2
    layer = nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    optimizer = _config(lr=0.1, weight_decay=0.5).build(layer)
    left, right = torch.ones(rows) / rows**0.5, torch.tensor([0.6, -0.8])
    layer.weight.grad = 7 * torch.outer(left, right)
    optimizer.step()
    s = 1.0
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = 1 - 0.1 * 0.5 - 0.1 * 0.2 * rows**0.5 * s * torch.outer(left, right)
    torch.testing.assert_close(layer.weight.detach(), expected, atol=0.1 * 0.01, rtol=0)


def test_an_update_is_about_as_large_as_one_of_adamw() -> None:
    for shape in ((64, 64), (192, 64), (64, 256)):
        layer = nn.Linear(*shape, bias=False)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
        _config(lr=1.0, weight_decay=0.0).build(layer).step()
        assert 0.15 < float((layer.weight.detach() - before).square().mean().sqrt()) < 0.25


def test_rules_send_parameters_from_one_part_to_the_other() -> None:
    config = _config(
        groups=[
            {"match": "blocks.0.attention.*.weight", "algorithm": "adamw", "lr_scale": 0.5},
            {"match": "positions.weight", "algorithm": "muon"},
        ]
    )
    algorithms = _algorithms(_model(), config)
    assert algorithms["blocks.0.attention.qkv.weight"] == "adamw"
    assert algorithms["blocks.1.attention.qkv.weight"] == algorithms["positions.weight"] == "muon"
    assert algorithms["embed.weight"] == "adamw"


def test_a_vector_for_muon_is_refused_with_the_rule_and_the_parameter() -> None:
    config = _config(groups=[{"match": "head.*"}, {"match": "blocks.*", "algorithm": "muon"}])
    with pytest.raises(ConfigError) as caught:
        config.build(_model())
    assert str(caught.value).startswith(
        "optimizer.groups.1.algorithm: muon is for matrices, blocks.0.norm_attention.weight has shape [32]"
    )


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_a_part_without_parameters_is_not_missed(algorithm: str) -> None:
    layer = nn.Linear(3, 3, bias=False)
    optimizer = _config(groups=[{"match": "*", "algorithm": algorithm}]).build(layer)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones(3, 3)
    optimizer.step()
    assert [g["algorithm"] for g in optimizer.param_groups] == [algorithm]
    assert not torch.equal(layer.weight, before)


def test_it_is_the_same_after_its_groups_and_state_have_been_replaced() -> None:
    """Accelerate calls `load_state_dict` with its own state when it wraps an optimizer."""
    model = _model()
    twin = copy.deepcopy(model)
    optimizer, untouched = _config().build(model), _config().build(twin)
    for seed in range(3):
        groups, state = optimizer.param_groups, optimizer.state
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.param_groups is not groups
        assert optimizer.state is not state
        for net, opt in ((model, optimizer), (twin, untouched)):
            for group in opt.param_groups:
                group["lr"] = 0.01 * (seed + 1)
            _loss(net, seed).backward()
            opt.step()
            opt.zero_grad()
            assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("in_place", [True, False])
def test_parameters_may_be_put_in_the_place_of_others(in_place: bool) -> None:
    """As FSDP2 does with shards, before the first step."""
    model = _model()
    optimizer, twin = _config().build(model), copy.deepcopy(model)
    new = dict(zip(model.parameters(), twin.parameters(), strict=True))
    for group in optimizer.param_groups:
        if in_place:
            for i, parameter in enumerate(group["params"]):
                group["params"][i] = new[parameter]
        else:
            group["params"] = [new[parameter] for parameter in group["params"]]
    before = copy.deepcopy(twin)
    _loss(model, 0).backward()
    _loss(twin, 0).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(twin.parameters(), before.parameters(), strict=True))
    assert {id(p) for p in optimizer.state} == {id(p) for p in twin.parameters()}


def test_a_loss_scaler_unscales_and_skips() -> None:
    model = _model()
    twin = copy.deepcopy(model)
    optimizer, plain = _config().build(model), _config().build(twin)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(bad: bool) -> None:
        scaler.scale(_loss(model, 0)).backward()
        if bad:
            model.get_parameter("norm.weight").grad[0] = torch.inf  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    step(bad=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert scaler.get_scale() == 512.0
    step(bad=False)
    _loss(twin, 0).backward()
    plain.step()
    # A power of two is taken off again without rounding.
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_closure_is_called_once_with_gradients_on() -> None:
    model, calls = _model(), []
    optimizer = _config().build(model)

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        return float(_loss(model, 0).detach())

    with torch.no_grad():
        assert optimizer.step(closure) > 0
    assert calls == [True]


def test_no_parameter_can_be_in_two_groups() -> None:
    layer = nn.Linear(2, 2, bias=False)
    groups = [{"params": [layer.weight], "algorithm": name, "lr": 0.1, "weight_decay": 0.0} for name in ("a", "b")]
    with pytest.raises(ValueError, match="more than one parameter group"):
        Combined(groups, {"a": torch.optim.SGD, "b": torch.optim.SGD})
