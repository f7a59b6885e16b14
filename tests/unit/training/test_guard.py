"""When an update is objected to, what is remembered, and who holds odd weights."""

import json
import math
import random

import pytest
import torch

from mypt_dist.training.guard import ENOUGH, Entry, GuardConfig, GuardState, objection
from mypt_dist.training.replicas import digests, odd_ranks
from mypt_dist.training.state import TrainState

CONFIG = GuardConfig()


def seasoned(steps: int = 200) -> GuardState:
    """A state after many ordinary steps."""
    chance, state = random.Random(1), GuardState()
    for _ in range(steps):
        state = state.accepted(3.0 + chance.gauss(0, 0.05), 0.4 * math.exp(chance.gauss(0, 0.3)), CONFIG.window)
    return state


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (3.0, math.nan, "the gradient norm is nan"),
        (3.9, 0.4, "the loss 3.9 is"),
        (3.0, 40.0, "the gradient norm 40 is"),
    ],
)
def test_what_cannot_be_right_is_objected_to(loss: float, norm: float, said: str) -> None:
    assert (objection(seasoned(), CONFIG, loss, norm) or "").startswith(said)


def test_the_ordinary_and_the_better_are_not() -> None:
    state, chance = seasoned(), random.Random(2)
    for _ in range(2000):
        assert objection(state, CONFIG, 3.0 + chance.gauss(0, 0.05), 0.4 * math.exp(chance.gauss(0, 0.3))) is None
    assert objection(state, CONFIG, 0.5, 1e-9) is None, "only what is above is odd"


def test_nothing_is_a_spike_to_a_young_run_or_to_one_that_does_not_look() -> None:
    assert objection(seasoned(ENOUGH - 1), CONFIG, 100.0, 1.0) is None
    assert objection(seasoned(ENOUGH), CONFIG, 100.0, 1.0) is not None
    assert objection(seasoned(), GuardConfig(spike=None), 100.0, 1e9) is None
    assert objection(GuardState(), CONFIG, math.nan, 1.0) is not None


def test_a_run_that_has_learned_its_data_does_not_trip_over_noise() -> None:
    state = GuardState(losses=(0.5,) * 128, norms=(0.1,) * 128)
    assert objection(state, CONFIG, 0.55, 0.1) is None


def test_what_was_refused_never_enters_the_window() -> None:
    """In some trainers it does: a storm of infinite losses becomes the new median, and nothing is a spike any more."""
    state = seasoned()
    refused, mutant = state, state
    for step in range(100):
        refused = refused.refused(Entry(step, 0, 1, "the loss is inf"))
        mutant = mutant.accepted(math.inf, 0.4, CONFIG.window)
    assert (refused.losses, refused.norms) == (state.losses, state.norms)
    assert objection(refused, CONFIG, 3.0, 0.4) is None
    assert objection(refused, CONFIG, 100.0, 0.4) is not None
    assert objection(mutant, CONFIG, 100.0, 0.4) is None, "the twin has lost its sight"


def test_a_state_survives_its_file_exactly() -> None:
    entries = Entry(7, 10, 20, "the loss is nan"), Entry(9, 20, 40, "…", back_to=5)
    state = seasoned().refused(entries[0]).refused(entries[1])
    assert GuardState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_going_back_keeps_the_record_and_takes_the_healthy_window() -> None:
    healthy = TrainState(step=4, tokens=40, samples=8, guard=seasoned(100))
    later = TrainState(step=6, tokens=60, samples=12, guard=seasoned(101).refused(Entry(6, 10, 12, "the loss is nan")))
    back = healthy.behind(later)
    assert (back.step, back.tokens, back.samples) == (4, 40, 12)
    assert (back.guard.losses, back.guard.healthy, back.guard.rollbacks) == (healthy.guard.losses, True, 1)
    assert [entry.back_to for entry in back.guard.ledger] == [None, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_flipped_bit_changes_a_digest(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 5).to(dtype)
    (before,) = digests([tensor])
    raw = tensor.view(-1).view(torch.uint8)
    for byte in range(len(raw)):
        for bit in range(8):
            raw[byte] ^= 1 << bit
            assert digests([tensor]) != [before]
            raw[byte] ^= 1 << bit
    assert digests([tensor]) == [before]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([(0, [1, 2]), (0, [1, 2])], None),
        ([(0, [1, 2]), (0, [1, 2]), (0, [1, 3])], "rank 2 differs from ranks 0, 1"),
        ([(0, [1]), (0, [2])], "ranks 0, 1 differ from each other"),
        ([(0, [1]), (1, [2]), (0, [1]), (1, [2])], None),
        ([(0, [1]), (1, [2]), (0, [1]), (1, [9])], "ranks 1, 3 differ from each other"),
        ([(0, [])] * 3, None),
    ],
)
def test_the_odd_rank_is_named(told: list[tuple[int, list[int]]], said: str | None) -> None:
    assert odd_ranks([{"group": group, "digests": [*found]} for group, found in told]) == said
