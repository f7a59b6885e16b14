"""Llama against a plain reference, and its switches."""

import pytest
import torch
from torch import Tensor

from mypt_dist.models.layers.rotary import rotation
from mypt_dist.models.llama import LlamaConfig
from mypt_dist.models.llama.module import Llama


def _config(**changes: object) -> LlamaConfig:
    return LlamaConfig.model_validate(
        {"vocab_size": 37, "context": 9, "n_layer": 2, "n_head": 4, "n_embd": 24, **changes}
    )


def _built(**changes: object) -> Llama:
    torch.manual_seed(0)
    model = Llama(_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def _turned(x: Tensor, theta: float, scale: float) -> Tensor:
    """(T, D): each pair (i, i + D/2) is a complex number, turned by its position times its frequency."""
    length, width = x.shape
    number = torch.complex(x[:, : width // 2].double(), x[:, width // 2 :].double())
    frequency = torch.tensor([theta ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / scale * frequency
    turned = number * torch.exp(1j * angle)
    return torch.cat((turned.real, turned.imag), dim=-1).float()


def _reference(model: Llama, config: LlamaConfig, ids: Tensor) -> Tensor:
    """One row, one head at a time."""
    w = model.state_dict()

    def norm(name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    length, width, shared = len(ids), config.head_width, config.n_head // config.kv_heads
    x = w["embed.weight"][ids]
    for i in range(config.n_layer):
        at = f"blocks.{i}.attention"
        heads = (norm(f"blocks.{i}.norm_attention", x) @ w[f"{at}.qkv.weight"].T).split(width, dim=-1)
        mixed = []
        for h in range(config.n_head):
            q, k = heads[h], heads[config.n_head + h // shared]
            v = heads[config.n_head + config.kv_heads + h // shared]
            if config.qk_norm:
                q, k = norm(f"{at}.q_norm", q), norm(f"{at}.k_norm", k)
            q, k = (_turned(part, config.rope_theta, config.rope_scale) for part in (q, k))
            scores = (q @ k.T * width**-0.5).masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            mixed.append(scores.softmax(-1) @ v)
        x = x + torch.cat(mixed, -1) @ w[f"{at}.out.weight"].T
        y = norm(f"blocks.{i}.norm_mlp", x)
        gate, up = y @ w[f"blocks.{i}.mlp.gate.weight"].T, y @ w[f"blocks.{i}.mlp.up.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ w[f"blocks.{i}.mlp.down.weight"].T
    return norm("norm", x) @ w["head.weight"].T + w.get("head.bias", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_head": 2},
        {"n_kv_head": 1, "qk_norm": True},
        {"rope_theta": 500.0, "rope_scale": 4.0, "bias_head": True},
        {"head_dim": 10, "tie_embeddings": False, "mlp_hidden": 7, "n_kv_head": 2},
    ],
    ids=str,
)
def test_it_computes_what_llama_computes(changes: dict[str, object]) -> None:
    model = _built(**changes)
    ids = torch.randint(37, (9,))
    torch.testing.assert_close(model(ids[None])[0], _reference(model, _config(**changes), ids), atol=2e-5, rtol=1e-5)


def test_logits_depend_on_distances_and_not_on_places() -> None:
    """Rotary positions are relative: a model that starts later in its context computes the same."""
    model, ids = _built(), torch.randint(37, (1, 4))
    embedded = model.embed(ids)
    results = []
    for start in (0, 5):
        turn = rotation(torch.arange(start, start + 4), 6, 10000.0, 1.0)
        results.append(model.blocks[0](embedded, turn))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(("n_embd", "hidden"), [(24, 64), (384, 1024), (1280, 3456), (4096, 10944)])
def test_the_hidden_width_is_two_thirds_of_a_classic_one_in_steps_of_64(n_embd: int, hidden: int) -> None:
    config = _config(n_embd=n_embd)
    assert config.hidden == hidden
    with torch.device("meta"):
        assert Llama(config).blocks[0].mlp.gate.weight.shape == (hidden, n_embd)


def test_shared_keys_and_values_make_projection_and_cache_smaller() -> None:
    model = _built(n_kv_head=1)
    assert model.blocks[0].attention.qkv.weight.shape == ((4 + 2) * 6, 24)
    assert model.new_cache(3).keys.shape == (2, 3, 1, 9, 6)


def test_nothing_but_the_head_can_have_a_bias() -> None:
    assert [name for name, _ in _built(bias_head=True).named_parameters() if "bias" in name] == ["head.bias"]
    assert [name for name, _ in _built().named_parameters() if "bias" in name] == []


def test_flops_are_those_of_palm_appendix_b() -> None:
    config = _config(n_kv_head=2, mlp_hidden=50)
    matrices = 2 * (24 * (4 + 2 + 2) * 6 + 24 * 24 + 3 * 24 * 50) + 37 * 24
    assert Llama(config).flops_per_token(9) == 6 * matrices + 12 * 2 * 24 * 9
    wide = _config(head_dim=10, n_kv_head=2, mlp_hidden=50)
    slope = Llama(wide).flops_per_token(9) - Llama(wide).flops_per_token(8)
    assert slope == 12 * 2 * (4 * 10)


def test_half_precision_weights_do_not_blur_positions() -> None:
    """A table of angles kept in bf16 would be wrong by whole turns at position 4000; these are made in fp32."""
    torch.manual_seed(0)
    model = Llama(_config(context=4096)).bfloat16().eval()
    turn = model.embedded(torch.zeros(1, 4096, dtype=torch.long), torch.arange(4096))[1]
    assert turn is not None
    cos, _ = turn
    assert cos.dtype == torch.float32
    assert cos.shape == (4096, 1, 6)
    assert cos[4001, 0, 0].item() == pytest.approx(torch.tensor(4001.0, dtype=torch.float64).cos().item(), abs=1e-3)


def test_fresh_weights_are_small_and_branches_end_narrower() -> None:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=512, context=64, n_layer=8, n_head=4, n_embd=128, qk_norm=True))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        else:
            expected = 0.02 / 4 if name.endswith(("attention.out.weight", "mlp.down.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
