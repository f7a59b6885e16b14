"""Rules of a run that are pure: batch arithmetic, resuming with changes, errors shared by all ranks."""

from typing import Any

import pytest

from mypt_dist.errors import ConfigError, LockError
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.config import RunConfig
from mypt_dist.run.main_rank import on_main
from mypt_dist.run.resume import changed_settings, check_changes, completed, flatten, is_fixed
from mypt_dist.training.config import TrainConfig, divisors
from mypt_dist.world import JSON, Solo


def train(batch_size: int, micro_batch: int | None = None) -> TrainConfig:
    return TrainConfig(steps=1, batch_size=batch_size, micro_batch=micro_batch)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, None])
def test_ranks_and_micro_batches_share_a_step_exactly(ranks: int, micro_batch: int | None) -> None:
    shape = batch_shape(train(8, micro_batch), 16, 0, ranks)
    assert shape.micro_batches * shape.micro_batch * ranks == 8


def test_a_batch_that_ranks_cannot_share_names_what_would_work() -> None:
    with pytest.raises(ConfigError, match=r"multiple of 4, such as 4, or one of 1, 2, 3, 6 ranks"):
        batch_shape(train(6), 16, 0, 4)
    with pytest.raises(ConfigError, match=r"has of train.batch_size 12: use one of 1, 2, 3, 6"):
        batch_shape(train(12, 4), 16, 0, 2)


def test_divisors() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(49) == [1, 7, 49]


def test_a_diff_names_every_changed_setting() -> None:
    before = {"train": {"seed": 1, "steps": 5}, "x": [1]}
    now = {"train": {"seed": 2, "steps": 5}, "y": {}}
    assert changed_settings(before, now) == {"train.seed": (1, 2), "x": ([1], None), "y": (None, {})}
    assert flatten({"a": {"b": {"c": 1}}, "d": []}) == {"a.b.c": 1, "d": []}


@pytest.mark.parametrize(
    ("key", "fixed"),
    [
        ("train.seed", True),
        ("train.batch_size", True),
        ("train.steps", False),
        ("train.micro_batch", False),
        ("train.precision", False),
        ("optimizer.type", True),
        ("optimizer.lr", False),
        ("model.n_layer", True),
        ("model.dropout", False),
        ("data", True),
        ("data.path", False),
        ("data.prefetch", False),
        ("data.shuffle", True),
        ("data.sources.web.path", False),
        ("data.sources.web.weight", True),
        ("trackers", False),
    ],
)
def test_which_changes_make_another_run(key: str, fixed: bool) -> None:
    assert is_fixed(key) is fixed


def test_a_refusal_shows_both_values_and_how_to_allow_them() -> None:
    changes: dict[str, tuple[Any, Any]] = {"train.seed": (1, 2), "train.batch_size": (8, 16), "optimizer.lr": (1, 2)}
    with pytest.raises(ConfigError) as caught:
        check_changes(changes, ["train.seed"])
    assert "train.batch_size: 8 there, 16 here" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert "lr" not in str(caught.value)
    assert "--allow-change" in str(caught.value)
    check_changes(changes, ["train"])


class Follower:
    """Rank 1 of two, whose rank 0 has sent ``message``."""

    rank, size = 1, 2

    def __init__(self, message: JSON) -> None:
        self.message = message

    def all_gather(self, value: JSON) -> list[JSON]:
        return [self.message, value]


class Leader(Follower):
    rank = 0

    def __init__(self) -> None:
        self.sent: list[JSON] = []

    def all_gather(self, value: JSON) -> list[JSON]:
        self.sent.append(value)
        return [value, {}]


def fail() -> JSON:
    raise LockError("taken")


def test_what_fails_on_rank_0_fails_alike_everywhere() -> None:
    with pytest.raises(LockError, match="taken"):
        on_main(Solo(), fail)
    leader = Leader()
    with pytest.raises(LockError, match="taken"):
        on_main(leader, fail)
    with pytest.raises(LockError, match="taken"):
        on_main(Follower(leader.sent[0]), lambda: pytest.fail("rank 1 does nothing"))


def test_what_rank_0_finds_is_known_everywhere() -> None:
    leader = Leader()
    assert on_main(leader, lambda: 7) == 7
    assert on_main(Follower(leader.sent[0]), lambda: 8) == 7


def test_a_setting_that_did_not_exist_yet_counts_as_its_default() -> None:
    now = RunConfig.model_validate(
        {
            "model": {"type": "gpt", "context": 8, "n_layer": 1, "n_head": 1, "n_embd": 8},
            "data": {"path": "x"},
            "train": {"steps": 1, "batch_size": 1},
        }
    ).model_dump(mode="json")
    saved = {**now, "data": {key: value for key, value in now["data"].items() if key != "document_mask"}}
    assert "data.document_mask" in changed_settings(saved, now)
    assert changed_settings(completed(saved), now) == {}
    assert completed({"model": "of another time"}) == {"model": "of another time"}
