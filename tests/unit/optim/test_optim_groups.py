"""Rules by name: the first match wins, a rule without effect is refused, and every parameter has one group."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mypt_dist.errors import ConfigError
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.optim.groups import GroupRule, Member, Settings, assign, first_matches, param_groups

DEFAULT = Settings("adamw", lr=1.0, weight_decay=0.1)

with torch.device("meta"):
    MODEL = GPTConfig.tiny(8).build()
NAMES = [name for name, _ in MODEL.named_parameters()]


def _members(model: nn.Module, *rules: GroupRule) -> list[Member]:
    return assign(model, lambda parameter: DEFAULT, rules)


def _fresh() -> CausalLM:
    with torch.device("meta"):
        return GPTConfig.tiny(8).build()


def test_the_first_rule_that_matches_wins() -> None:
    rules = [GroupRule(match="a.*"), GroupRule(match="*.bias"), GroupRule(match="?.weight")]
    names = ["a.bias", "b.bias", "a.weight", "b.weight", "bb.weight"]
    assert first_matches(names, rules) == {"a.bias": 0, "b.bias": 1, "a.weight": 0, "b.weight": 2}


def test_case_counts_on_every_system() -> None:
    assert first_matches(["A", "a"], [GroupRule(match="a")]) == {"a": 0}


def test_a_rule_changes_what_it_names_and_nothing_else() -> None:
    assert DEFAULT.under(GroupRule(match="x")) == DEFAULT
    assert DEFAULT.under(GroupRule(match="x", lr_scale=0.5)) == Settings("adamw", 0.5, 0.1)
    assert DEFAULT.under(GroupRule(match="x", weight_decay=0.0)) == Settings("adamw", 1.0, 0.0)
    assert DEFAULT.under(GroupRule(match="x", algorithm="muon")) == Settings("muon", 1.0, 0.1)


def test_equal_settings_are_one_group_and_defaults_come_first() -> None:
    rules = (
        GroupRule(match="embed.*", lr_scale=2.0),
        GroupRule(match="*norm*", weight_decay=0.0),
        GroupRule(match="head.*", lr_scale=2.0),
        GroupRule(match="positions.weight", weight_decay=0.1),
    )
    groups = param_groups(_members(MODEL, *rules))
    settings = [(g["algorithm"], g["lr"], g["weight_decay"]) for g in groups]
    assert settings == [("adamw", 1.0, 0.1), ("adamw", 2.0, 0.1), ("adamw", 1.0, 0.0)]
    assert groups[1]["params"] == [MODEL.get_parameter("embed.weight"), MODEL.get_parameter("head.bias")]
    assert any(p is MODEL.get_parameter("positions.weight") for p in groups[0]["params"])


def test_a_pattern_that_matches_nothing_names_its_key_and_what_is_near() -> None:
    rules = GroupRule(match="*.bias"), GroupRule(match="blocks.*.attn.qkv.weight")
    with pytest.raises(ConfigError) as caught:
        _members(MODEL, *rules)
    text = str(caught.value)
    assert text.startswith("optimizer.groups.1.match: 'blocks.*.attn.qkv.weight' matches no trainable parameter")
    assert "near it are blocks.*.attention.qkv.weight, " in text
    assert len(text.splitlines()) == 1


def test_all_useless_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _members(MODEL, GroupRule(match="x"), GroupRule(match="*"), GroupRule(match="y"))
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "optimizer.groups.0.match",
        "optimizer.groups.2.match",
    ]


def test_a_rule_behind_a_wider_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1\.match: 'embed\.\*' comes too late: embed\.weight follows groups\.0"):
        _members(MODEL, GroupRule(match="*.weight"), GroupRule(match="embed.*"))


def test_the_other_name_of_a_tied_weight_is_told() -> None:
    with pytest.raises(ConfigError, match=r"head\.weight is tied to embed\.weight: match that name"):
        _members(MODEL, GroupRule(match="head.weight"))


def test_frozen_parameters_are_in_no_group_and_a_rule_for_them_alone_is_refused() -> None:
    model = _fresh()
    model.get_parameter("norm.weight").requires_grad_(False)
    assert [m.name for m in _members(model)] == [name for name in NAMES if name != "norm.weight"]
    with pytest.raises(ConfigError, match=r"norm\.weight is frozen"):
        _members(model, GroupRule(match="norm.weight"))


def _patterns() -> st.SearchStrategy[str]:
    name = st.sampled_from(NAMES)
    cut = st.integers(0, 30)
    return st.one_of(
        name,
        st.builds(lambda text, at: text[:at] + "*", name, cut),
        st.builds(lambda text, at: "*" + text[at:], name, cut),
        st.builds(lambda text, at: text[:at] + "?" + text[at + 1 :], name, cut),
    )


RULES = st.builds(
    GroupRule,
    match=_patterns(),
    algorithm=st.sampled_from([None, "adamw", "muon"]),
    lr_scale=st.sampled_from([0.5, 1.0]),
    weight_decay=st.sampled_from([None, 0.0, 0.1]),
)


@settings(deadline=None)
@given(st.lists(RULES, max_size=5))
def test_every_parameter_is_in_exactly_one_group_with_the_settings_of_its_first_match(
    rules: Sequence[GroupRule],
) -> None:
    expected, used = {}, set()
    for name in NAMES:
        matching = [i for i, rule in enumerate(rules) if fnmatchcase(name, rule.match)]
        expected[name] = DEFAULT.under(rules[matching[0]]) if matching else DEFAULT
        used |= set(matching[:1])
    if len(used) < len(rules):
        with pytest.raises(ConfigError):
            _members(MODEL, *rules)
        return
    groups = param_groups(_members(MODEL, *rules))
    found = {id(p): Settings(g["algorithm"], g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found) == len(NAMES)
    assert {name: found[id(p)] for name, p in MODEL.named_parameters()} == expected
    assert len(groups) == len(set(expected.values())), "equal settings are one group"
