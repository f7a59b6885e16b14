"""What the engine hides of Accelerate, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mypt_dist.engine import Engine, StepRecipe, rng_state, set_rng_state
from mypt_dist.engine.host import HostGroup, peers_may_be_lost
from mypt_dist.engine.placement import deal
from mypt_dist.engine.precision import is_fp8_layer, require_precision
from mypt_dist.errors import ConfigError, LostPeerError
from mypt_dist.models.gpt import GPTConfig


def test_a_world_that_is_not_the_promised_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPT_EXPECT_RANKS", "2")
    with pytest.raises(ConfigError, match="the launcher promised 2 ranks, but only 1 are connected"):
        Engine().close()


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_a_precision_without_hardware_is_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"train.precision: {precision} needs a GPU; on a CPU use bf16 or fp32"):
        Engine(precision=precision)  # type: ignore[arg-type]


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 10**9), min_size=1), st.integers(1, 8))
def test_every_tensor_has_one_writer_and_no_rank_is_left_with_much_more(sizes: dict[str, int], ranks: int) -> None:
    owner = deal(sizes, ranks)
    assert owner.keys() == sizes.keys()
    burden = [sum(sizes[name] for name in owner if owner[name] == rank) for rank in range(ranks)]
    assert max(burden) - min(burden) <= max(sizes.values())
    assert deal(dict(reversed(sizes.items())), ranks) == owner, "ranks must not depend on the order of a dict"


def test_random_states_survive_json() -> None:
    torch.manual_seed(5)
    state = json.loads(json.dumps(rng_state()))
    expected = torch.rand(3)
    torch.rand(7)
    set_rng_state(state)
    assert torch.equal(torch.rand(3), expected)


def test_one_rank_needs_no_collective() -> None:
    host = HostGroup(1)
    assert host.sum(1, 2.5, True) == [1.0, 2.5, 1.0]
    assert host.all_gather({"a": [1, None]}) == [{"a": [1, None]}]


def test_a_lost_peer_is_told_from_a_bug() -> None:
    with pytest.raises(LostPeerError, match="another rank died"), peers_may_be_lost():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shape"), peers_may_be_lost():
        raise RuntimeError("shape mismatch")


def test_the_norm_is_reported_before_clipping_and_the_update_is_clipped() -> None:
    engine = Engine()
    layer = nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    trainable = engine.prepare(layer, torch.optim.SGD(layer.parameters(), lr=1.0), StepRecipe(max_norm=1.0))
    trainable.backward(trainable.model(torch.full((1, 4), 10.0)).sum())
    update = trainable.update()
    assert not update.skipped
    assert update.norm == pytest.approx(20.0)
    assert float((before - layer.weight.detach()).norm()) == pytest.approx(1.0, rel=1e-4)
    assert layer.weight.grad is None
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_state_goes_out_and_comes_back_without_changing_what_it_belongs_to(precision: str) -> None:
    engine = Engine(precision=precision)  # type: ignore[arg-type]
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1, weight_decay=0.3)
    trainable = engine.prepare(layers, optimizer, StepRecipe(max_norm=1.0))
    for _ in range(2):
        trainable.backward(trainable.model(torch.ones(3, 4)).float().square().sum())
        trainable.update()
    saved = {tensor.name: tensor.flat.clone().numpy() for tensor in trainable.local_state()}
    assert {np.dtype("float32")} == {array.dtype for array in saved.values()}
    assert "optimizer/exp_avg_sq/0.weight" in saved
    assert len(saved) == 4 * 4

    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fresh_optimizer = torch.optim.AdamW(fresh.parameters(), lr=0.1, weight_decay=0.3)
    other = engine.prepare(fresh, fresh_optimizer, StepRecipe(max_norm=1.0))

    def read(name: str, shape: tuple[int, ...], start: int, into: torch.Tensor) -> None:
        assert start == 0
        into.copy_(torch.from_numpy(saved[name]).view_as(into))

    other.load_state(read)
    assert other.param_groups[0]["lr"] == 0.1
    found = {tensor.name: tensor.flat.numpy() for tensor in other.local_state()}
    assert all(np.array_equal(found[name], saved[name]) for name in saved)
    assert trainable.scaler_state() == {}
    assert (engine.name, engine.is_main, engine.peak_memory() > 0) == ("single", True, True)
    engine.close()


def test_two_engines_of_different_precision_can_follow_each_other() -> None:
    for precision in ("fp32", "bf16", "fp32"):
        engine = Engine(precision=precision)  # type: ignore[arg-type]
        layer = nn.Linear(8, 8)
        model = engine.prepare(layer, torch.optim.SGD(layer.parameters()), StepRecipe(max_norm=1.0)).model
        rounded = model(torch.full((1, 8), 1 / 3)).bfloat16().float()
        is_bf16 = torch.equal(rounded, model(torch.full((1, 8), 1 / 3)).float())
        assert is_bf16 == (precision == "bf16")
        engine.close()


@pytest.mark.parametrize(
    ("capability", "zero_stage", "message"),
    [
        ((8, 0), 0, "fp8 needs an Ada or Hopper GPU, this is a Fake: use bf16"),
        ((9, 0), 3, "fp8 does not go with ZeRO-3: use bf16, or FSDP2 or DDP"),
        ((9, 0), 0, "fp8 needs torchao: pip install torchao"),
    ],
)
def test_fp8_says_what_is_missing(
    capability: tuple[int, int], zero_stage: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake")
    with pytest.raises(ConfigError, match=message):
        require_precision("fp8", cpu=False, zero_stage=zero_stage)


def test_fp8_is_for_the_matrices_of_the_blocks() -> None:
    model = GPTConfig(vocab_size=64, context=8, n_layer=1, n_head=1, n_embd=16).build()
    chosen = [name for name, module in model.named_modules() if is_fp8_layer(module, name)]
    assert chosen == [f"blocks.0.{part}" for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")]
    assert not is_fp8_layer(nn.Linear(24, 16), "blocks.0.odd")


def test_deterministic_mode_is_asked_of_torch() -> None:
    try:
        Engine(deterministic=True).close()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_freed_memory_is_used_again_instead_of_mapped_anew() -> None:
    code = (
        "import resource, sys, torch\n"
        "from mypt_dist.engine.host_memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "for _ in range(12): torch.ones(16 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): torch.ones(16 << 20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    command = [sys.executable, "-c", code]
    faults = {
        how: int(subprocess.run([*command, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] * 4 < faults["default"]
