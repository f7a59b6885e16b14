"""Ranks that were not started alike are told so, by name."""

from collections.abc import Mapping

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.run.main_rank import before_ranks_meet
from mypt_dist.run.same_start import require_same_start
from mypt_dist.world import JSON


class Told:
    """A world whose ranks say what they are told to say."""

    rank = 0

    def __init__(self, *facts: Mapping[str, JSON]) -> None:
        self._facts = [dict(one) for one in facts]
        self.size = len(facts)

    def all_gather(self, value: JSON) -> list[JSON]:
        return list(self._facts)


def test_ranks_that_are_alike_start() -> None:
    require_same_start(Told({"a": 1}, {"a": 1}), {"a": 1})


def test_everything_that_differs_is_named_with_both_values() -> None:
    facts = [{"optimizer.lr": 0.1, "x": 1}, {"optimizer.lr": 0.1, "x": 2}, {"optimizer.lr": 0.2, "x": 3, "new": True}]
    with pytest.raises(ConfigError) as error:
        require_same_start(Told(*facts), facts[0])
    assert str(error.value).splitlines()[1:-1] == [
        "  new: None on rank 0, True on rank 2",
        "  optimizer.lr: 0.1 on rank 0, 0.2 on rank 2",
        "  x: 1 on rank 0, 2 on rank 1, and others on 1 more",
    ]


@pytest.mark.parametrize(("local_rank", "speaks"), [("0", True), ("3", False)])
def test_before_ranks_meet_one_of_each_machine_speaks(
    local_rank: str, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ConfigError) as error, before_ranks_meet():
        raise ConfigError("no such file")
    assert error.value.local is speaks
