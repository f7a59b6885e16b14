"""What a rank holds, to the byte; real engines are compared in tests/multiproc/test_state_is_shared_out.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.launch import EngineName, Topology
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.plan.passes import Numerics, survey, trace
from mypt_dist.run.plan.states import Layout, Parameter, largest, rows, states

MODEL = GPTConfig(vocab_size=61, context=24, n_layer=2, n_head=2, n_embd=32)


def test_one_process_holds_what_it_really_holds() -> None:
    model = MODEL.build()
    optimizer = AdamWConfig().build(model)
    model(torch.zeros((1, 24), dtype=torch.int64), labels=torch.zeros((1, 24), dtype=torch.int64)).backward()
    optimizer.step()
    held = states(survey(MODEL, AdamWConfig())[0], Layout(Topology())).device
    assert held.weights == sum(p.nbytes for p in model.parameters())
    assert held.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert held.optimizer == sum(t.nbytes for state in optimizer.state.values() for t in state.values())


@given(st.integers(1, 70), st.integers(1, 9))
def test_rows_are_dealt_out_as_torch_does_it(count: int, shards: int) -> None:
    parameter = Parameter("w", (count, 3), place=0, unit=0, moments=8, counters=4, optimizer_group=0)  # type: ignore[arg-type]
    chunks = [len(chunk) for chunk in torch.zeros(count).chunk(shards)]
    expected = chunks + [0] * (shards - len(chunks))
    assert [rows(parameter, shards, rank) for rank in range(shards)] == expected


@pytest.mark.parametrize(("name", "shared"), [("ddp", False), ("fsdp2", True), ("zero3", True)])
def test_only_what_is_sharded_falls_with_the_ranks(name: EngineName, shared: bool) -> None:
    parameters = survey(MODEL, AdamWConfig())[0]
    two, four = (largest(parameters, Layout(Topology(name, ranks))).device.optimizer for ranks in (2, 4))
    assert four < 0.55 * two if shared else four == two


def test_looking_ahead_draws_nothing_and_costs_more_for_more_windows() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (trace(MODEL, windows, Numerics(), gpu=False).peak for windows in (1, 2))
    survey(MODEL, AdamWConfig())
    assert torch.equal(torch.get_rng_state(), before)
    assert 1.5 * one < two < 2.1 * one
