"""Which settings does each parameter follow? Rules on its name, the first match wins; else the optimizer's default."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mypt_dist.config import Config
from mypt_dist.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


class GroupRule(Config):
    """Settings of the parameters whose name matches. What a rule leaves out is as the optimizer's default has it."""

    match: str = Field(min_length=1)
    """A pattern on the parameter's qualified name: ``*`` is any text, ``?`` any character, ``[01]`` one of these."""
    algorithm: str | None = None
    """Null: the default for this kind of parameter."""
    lr_scale: float = Field(default=1.0, gt=0)
    """Times the optimizer's ``lr``."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Null: the default for this kind of parameter."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What may differ between the parameters of one optimizer."""

    algorithm: str
    lr: float
    """Peak learning rate."""
    weight_decay: float

    def under(self, rule: GroupRule) -> "Settings":
        """These defaults, changed by ``rule``."""
        return Settings(
            algorithm=rule.algorithm or self.algorithm,
            lr=self.lr * rule.lr_scale,
            weight_decay=self.weight_decay if rule.weight_decay is None else rule.weight_decay,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A trainable parameter with the settings it follows."""

    name: str
    parameter: "nn.Parameter"
    settings: Settings
    rule: int | None
    """Index of the rule it follows, or none."""


def assign(
    model: "nn.Module", default: Callable[["nn.Parameter"], Settings], rules: Sequence[GroupRule]
) -> list[Member]:
    """Every trainable parameter of ``model`` once, a tied one under its first name, in the model's order.

    Raises one `ConfigError` that lists every rule that no parameter follows.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    followed = first_matches(parameters, rules)
    useless = [i for i in range(len(rules)) if i not in followed.values()]
    if useless:
        raise ConfigError("\n".join(_useless(i, rules, list(parameters), unmatchable(model)) for i in useless))
    members = []
    for name, parameter in parameters.items():
        settings, rule = default(parameter), followed.get(name)
        members.append(Member(name, parameter, settings if rule is None else settings.under(rules[rule]), rule))
    return members


def first_matches(names: Iterable[str], rules: Sequence[GroupRule]) -> dict[str, int]:
    """The index of the rule that each name follows. Names that no rule matches are left out."""
    matches = ((name, i) for name in names for i, rule in enumerate(rules) if fnmatchcase(name, rule.match))
    followed: dict[str, int] = {}
    for name, i in matches:
        followed.setdefault(name, i)
    return followed


def param_groups(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Torch's param groups: one for each distinct setting, defaults first, then in the order of the rules.

    The order is a function of model and rules, so it is the same on all ranks.
    """
    groups: dict[Settings, list[nn.Parameter]] = {}
    for member in sorted(members, key=lambda member: -1 if member.rule is None else member.rule):
        groups.setdefault(member.settings, []).append(member.parameter)
    return [
        {"params": parameters, "algorithm": at.algorithm, "lr": at.lr, "weight_decay": at.weight_decay}
        for at, parameters in groups.items()
    ]


def unmatchable(model: "nn.Module") -> dict[str, str]:
    """Names of parameters that cannot be matched, with the reason."""
    reasons: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if not parameter.requires_grad:
            reasons[name] = "is frozen"
        elif known != name:
            reasons[name] = f"is tied to {known}: match that name"
    return reasons


def _useless(index: int, rules: Sequence[GroupRule], names: Sequence[str], others: Mapping[str, str]) -> str:
    pattern = rules[index].match
    key = f"optimizer.groups.{index}.match: {pattern!r}"
    matched = [name for name in names if fnmatchcase(name, pattern)]
    if matched:
        before = min(first_matches(matched, rules).values())
        taken = rules[before].match
        return f"{key} comes too late: {matched[0]} follows groups.{before} ({taken!r}), the first match wins"
    for name, reason in others.items():
        if fnmatchcase(name, pattern):
            return f"{key} matches no trainable parameter: {name} {reason}"
    return f"{key} matches no trainable parameter, near it are {near_kinds(pattern, names)}"


def near_kinds(pattern: str, names: Sequence[str]) -> str:
    """The three patterns most like ``pattern`` that would match some of ``names``."""
    # Layers differ in their number only, and one of each kind says more than three numbers.
    kinds = dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return ", ".join(difflib.get_close_matches(pattern, kinds, n=3, cutoff=0.0))
