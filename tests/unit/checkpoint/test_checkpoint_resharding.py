"""Any world size reads what any other wrote, to the byte."""

import tempfile
from pathlib import Path

import numpy as np
from checkpoint_doubles import State, on_ranks, piece, quick_disk, same
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.checkpoint import CheckpointStore
from mypt_dist.world import World

NAMES = ("model/a", "model/b.weight", "optimizer/exp_avg/a")


@st.composite
def states(draw: st.DrawFn) -> State:
    rng = np.random.default_rng(draw(st.integers(0, 7)))
    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    return {
        name: np.asarray(rng.random(draw(shapes)), dtype=draw(st.sampled_from(["float32", "float64"])))
        for name in NAMES
    }


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, list[float]]:
    """Where, as fractions, each tensor is cut between four ranks: any of them may hold nothing."""
    return {name: sorted(draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))) for name in NAMES}


def ranges(size: int, elements: int, cut: list[float]) -> list[tuple[int, int]]:
    ends = [0, *(round(elements * c) for c in cut[: size - 1]), elements]
    return [(ends[rank], ends[rank + 1] - ends[rank]) for rank in range(size)]


def save(root: Path, step: int, size: int, state: State, cut: dict[str, list[float]]) -> None:
    def run(world: World) -> None:
        from checkpoint_doubles import describer

        segments = [piece(n, a, *ranges(size, a.size, cut[n])[world.rank]) for n, a in state.items()]
        store = CheckpointStore(root, world, disk=quick_disk(part_bytes=50))
        store.save(step, segments, rank_state={}, files={}, describe=describer(step))

    on_ranks(size, run)


def load(root: Path, size: int, state: State, cut: dict[str, list[float]]) -> State:
    """Each rank reads its own ranges; together they make the tensors."""
    loaded = {name: np.zeros_like(array) for name, array in state.items()}

    def run(world: World) -> None:
        found = CheckpointStore(root, world, disk=quick_disk()).latest()
        assert found is not None
        for name, array in loaded.items():
            start, length = ranges(size, array.size, cut[name])[world.rank]
            found.read_into(name, start, length, array.reshape(-1)[start : start + length])

    on_ranks(size, run)
    return loaded


@settings(max_examples=25, deadline=None)
@given(states(), st.integers(1, 4), st.integers(1, 4), cuts(), cuts())
def test_saving_at_a_loading_at_b_saving_and_loading_at_a_gives_the_same_bytes(
    state: State, a: int, b: int, cut_a: dict[str, list[float]], cut_b: dict[str, list[float]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save(root, 1, a, state, cut_a)
        between = load(root, b, state, cut_b)
        save(root, 2, b, between, cut_b)
        assert same(load(root, a, state, cut_a), state)
