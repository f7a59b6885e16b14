"""Which moments of their optimizer are which of ours? They are numbered, and numbers follow the model's parameters."""

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mypt_dist.checkpoint import Segment
from mypt_dist.errors import CheckpointError
from mypt_dist.interchange.torch_files.stored import StoredTensor
from mypt_dist.interchange.trainers.layouts import Layout
from mypt_dist.interchange.trainers.rows import LOSSY, Rows
from mypt_dist.optim.adamw import AdamWConfig, AdamWRule

REMEDY = "leave the optimizer behind: --weights-only"
_KEYS = frozenset({"step", "exp_avg", "exp_avg_sq"})


@dataclass(frozen=True, slots=True)
class Moments:
    """The state of AdamW, in our names."""

    segments: tuple[Segment, ...]
    config: AdamWConfig
    rounded: bool
    """Whether any of it was in more than 32 bits."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    state: Mapping[str, Any]
    weight_decay: float
    step: float


def moments(layout: Layout, state: Mapping[str, StoredTensor], optimizer: object, lr: object, where: str) -> Moments:
    """The state of the optimizer of the model with these parameters; its rate is ``lr`` if that is one.

    Raises `CheckpointError` for an optimizer that is not AdamW, is not whole, or does not fit the model.
    """
    try:
        return _moments(layout, state, optimizer, lr)
    except (LookupError, TypeError, ValueError, ValidationError) as error:
        reason = str(error).partition("\n")[0] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{where}: its optimizer cannot be taken over: {reason}; {REMEDY}") from None


def _moments(layout: Layout, state: Mapping[str, StoredTensor], optimizer: object, lr: object) -> Moments:
    if not isinstance(optimizer, dict) or not {"state", "param_groups"} <= optimizer.keys():
        raise ValueError("it is not the state of an optimizer of torch")
    groups = optimizer["param_groups"]
    named = _named(layout, state, groups)
    theirs = {
        name: _parameter(name, state[name], optimizer["state"], groups[group], i) for i, (name, group) in named.items()
    }
    segments: list[Segment] = []
    decays: dict[str, float] = {}
    rounded = False
    for ours, parts in layout.parts.items():
        held = [theirs[name] for name in parts]
        decays[ours] = _only([one.weight_decay for one in held], f"weight_decay of {ours}")
        step = _only([one.step for one in held], f"step of {ours}")
        segments.append(_scalar(f"optimizer/step/{ours}", step))
        for key in ("exp_avg", "exp_avg_sq"):
            rows = Rows.of(f"optimizer/{key}/{ours}", [one.state[key] for one in held])
            rounded |= rows.dtype in LOSSY
            segments.append(rows.segment(as_fp32=True))
    matrices = {ours for ours, parts in layout.parts.items() if len(state[parts[0]].shape) >= 2}
    return Moments(tuple(segments), _config(groups, lr, decays, matrices), rounded)


def _named(
    layout: Layout, state: Mapping[str, StoredTensor], groups: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[str, int]]:
    """Number of a parameter -> its name, and its group.

    Numbers run through the groups. One group holds the parameters in the model's order; of two, the first holds those
    that decay, which are the matrices, and the second the others.
    """
    names = [name for name in state if name not in layout.ignored]
    if names != list(layout.order):
        raise ValueError(
            "the model's tensors stand in another order than their program gives them, so numbers mean nothing"
        )
    match len(groups):
        case 1:
            members = [list(layout.order)]
        case 2:
            wide = [name for name in layout.order if len(state[name].shape) >= 2]
            members = [wide, [name for name in layout.order if name not in set(wide)]]
        case number:
            raise ValueError(f"it has {number} groups of parameters, 1 or 2 are understood")
    named: dict[int, tuple[str, int]] = {}
    for group, expected in enumerate(members):
        numbers = groups[group]["params"]
        if numbers != list(range(len(named), len(named) + len(expected))):
            raise ValueError(f"group {group} has {len(numbers)} parameters, the model has {len(expected)} of its kind")
        named |= {number: (name, group) for number, name in zip(numbers, expected, strict=True)}
    return named


def _parameter(
    name: str, weight: StoredTensor, states: Mapping[Any, Any], group: Mapping[str, Any], number: int
) -> _Parameter:
    if number not in states:
        raise ValueError(f"it has no moments of {name}")
    held = states[number]
    if held.keys() != _KEYS:
        raise ValueError(f"it keeps {', '.join(map(str, held))} of {name}; AdamW keeps {', '.join(sorted(_KEYS))}")
    for key in ("exp_avg", "exp_avg_sq"):
        if not isinstance(held[key], StoredTensor) or held[key].shape != weight.shape:
            raise ValueError(f"its {key} of {name} is of another shape than that")
    step = held["step"].number() if isinstance(held["step"], StoredTensor) else float(held["step"])
    return _Parameter(held, float(group["weight_decay"]), step)


def _config(
    groups: Sequence[Mapping[str, Any]], lr: object, decays: Mapping[str, float], matrices: set[str]
) -> AdamWConfig:
    unlike = [key for key in ("amsgrad", "maximize") if any(group.get(key) for group in groups)]
    if any(group.get("decoupled_weight_decay") is False and group["weight_decay"] for group in groups):
        unlike.append("a weight decay that goes through the moments")
    if unlike:
        raise ValueError(f"it was used with {' and '.join(unlike)}")
    first, second = _only([tuple(group["betas"]) for group in groups], "betas")
    rates = [group.get("initial_lr", group["lr"]) for group in groups]
    rate = lr if isinstance(lr, int | float) and lr > 0 else _only(rates, "lr")
    decay, rules = _rules(decays, matrices)
    return AdamWConfig(
        lr=rate,
        betas=(first, second),
        eps=_only([group["eps"] for group in groups], "eps"),
        weight_decay=decay,
        groups=rules,
    )


def _rules(decays: Mapping[str, float], matrices: set[str]) -> tuple[float, tuple[AdamWRule, ...]]:
    """The weight decay of matrices, and rules for whatever does not follow our default: that others have none."""
    decay = Counter(decays[name] for name in sorted(matrices)).most_common(1)[0][0]
    if decay and set(decays.values()) == {decay}:
        return decay, (AdamWRule(match="*", weight_decay=decay),)
    odd = {name: own for name, own in decays.items() if own != (decay if name in matrices else 0.0)}
    return decay, tuple(AdamWRule(match=name, weight_decay=own) for name, own in odd.items())


def _only(values: Sequence[Any], what: str) -> Any:
    if any(value != values[0] for value in values):
        raise ValueError(f"its {what} is not one number: {', '.join(map(str, dict.fromkeys(values)))}")
    return values[0]


def _scalar(name: str, value: float) -> Segment:
    return Segment(name, (), "F32", 0, 1, lambda: struct.pack("<f", value))
