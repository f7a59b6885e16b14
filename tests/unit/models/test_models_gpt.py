"""GPT against a plain reference, and its switches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.gpt.module import GPT

BIASES = ("bias_qkv", "bias_attention_out", "bias_mlp", "bias_norm", "bias_head")


def _config(**changes: object) -> GPTConfig:
    return GPTConfig.model_validate(
        {"vocab_size": 37, "context": 9, "n_layer": 3, "n_head": 3, "n_embd": 24, **changes}
    )


def _built(**changes: object) -> GPT:
    torch.manual_seed(0)
    model = GPT(_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def _reference(weights: dict[str, Tensor], config: GPTConfig, ids: Tensor) -> Tensor:
    """The classic model with one attention head at a time and the softmax spelled out."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)

    length, width = ids.shape[1], config.n_embd // config.n_head
    activation = {
        "relu": lambda x: x.clamp(min=0),
        "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "gelu_tanh": lambda x: x * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    }[config.activation]
    x = weights["embed.weight"][ids] + weights["positions.weight"][:length]
    for i in range(config.n_layer):
        qkv = linear(f"blocks.{i}.attention.qkv", norm(f"blocks.{i}.norm_attention", x))
        heads = []
        for h in range(config.n_head):
            q, k, v = (qkv[..., part * config.n_embd + h * width :][..., :width] for part in range(3))
            scores = q @ k.transpose(1, 2) * width**-0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            heads.append(scores.softmax(-1) @ v)
        x = x + linear(f"blocks.{i}.attention.out", torch.cat(heads, -1))
        hidden = activation(linear(f"blocks.{i}.mlp.up", norm(f"blocks.{i}.norm_mlp", x)))
        x = x + linear(f"blocks.{i}.mlp.down", hidden)
    return linear("head", norm("norm", x))


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_classic_model_computes(activation: str, tied: bool, bias: bool) -> None:
    model = _built(activation=activation, tie_embeddings=tied, **dict.fromkeys(BIASES, bias))
    ids = torch.randint(37, (2, 9))
    config = _config(activation=activation)
    torch.testing.assert_close(model(ids), _reference(model.state_dict(), config, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("switch", "removed"),
    [
        ("bias_qkv", 3 * 3 * 24),
        ("bias_attention_out", 3 * 24),
        ("bias_mlp", 3 * 5 * 24),
        ("bias_norm", 7 * 24),
        ("bias_head", 37),
    ],
)
def test_each_bias_has_its_own_switch(switch: str, removed: int) -> None:
    counts = [
        sum(p.numel() for p in GPT(_config(**dict.fromkeys(BIASES, True), **{})).parameters()),
        sum(p.numel() for p in GPT(_config(**{**dict.fromkeys(BIASES, True), switch: False})).parameters()),
    ]
    assert counts[0] - counts[1] == removed


def test_the_classic_formula_counts_its_parameters() -> None:
    v, t, e, n = 37, 9, 24, 3
    expected = v * e + t * e + n * (12 * e * e + 10 * e + 3 * e) + 2 * e + v * e + v
    model = GPT(_config(bias_qkv=True, tie_embeddings=False))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_flops_are_those_of_palm_appendix_b() -> None:
    matrices = 3 * 12 * 24 * 24 + 37 * 24
    assert GPT(_config()).flops_per_token(9) == 6 * matrices + 12 * 3 * 24 * 9


def test_dropout_spares_the_embedding_and_hits_each_branch() -> None:
    torch.manual_seed(1)
    ids = torch.randint(37, (1, 9))
    model = _built(dropout=0.5).train()
    embedded, _ = model.embedded(ids, torch.arange(9))
    assert torch.equal(embedded, F.embedding(ids, model.embed.weight) + model.positions.weight)
    for branch in (model.blocks[0].attention, model.blocks[0].mlp):
        zeros = (torch.cat([branch(embedded) for _ in range(10)]) == 0).float().mean()
        assert zeros == pytest.approx(0.5, abs=0.05)


def test_dropout_hits_attention_weights() -> None:
    torch.manual_seed(1)
    attention = _built(dropout=0.5).train().blocks[0].attention
    attention.out = torch.nn.Identity()
    # A lone token attends to itself: where that weight is dropped, all 8 numbers of the head are 0.
    heads = attention(torch.randn(200, 1, 24)).view(-1, 8)
    assert (heads == 0).all(dim=1).float().mean() == pytest.approx(0.5, abs=0.08)


def test_fresh_weights_are_small_and_branches_end_narrower() -> None:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=512, context=64, n_layer=8, n_head=4, n_embd=128, bias_qkv=True)
    model = GPT(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            ends_branch = name.endswith(("attention.out.weight", "mlp.down.weight"))
            expected = 0.02 / 4 if ends_branch else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_a_fresh_model_is_undecided() -> None:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=256, context=32, n_layer=4, n_head=4, n_embd=64)
    ids = torch.randint(256, (4, 32))
    loss = F.cross_entropy(GPT(config)(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.tensor(256.0).log().item(), abs=0.1)
