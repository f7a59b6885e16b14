"""Which flat ranges of which tensors a rank holds, and which of them it writes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class LocalTensor:
    """A flat row-major range of a logical tensor that this rank holds."""

    name: str
    """``model/NAME`` or ``optimizer/STATE/NAME``, with NAME the parameter's qualified name."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    flat: Tensor
    """1-D, sharing memory with the live tensor, on its device."""
    copy: int = 0
    """Which of the ranks that hold this very range this rank is."""
    copies: int = 1
    """How many ranks hold this very range."""


StateReader: TypeAlias = Callable[[str, tuple[int, ...], int, Tensor], None]
"""``read(name, shape, start, into)`` fills the 1-D host tensor ``into`` with a flat range of a saved tensor."""


def written(held: Iterable[LocalTensor]) -> list[LocalTensor]:
    """What of all that a rank holds it writes: ranges that several ranks hold are dealt out among them by size."""
    by_copies: defaultdict[int, list[LocalTensor]] = defaultdict(list)
    for tensor in held:
        by_copies[tensor.copies].append(tensor)
    mine = []
    for copies, tensors in by_copies.items():
        owner = deal({tensor.name: tensor.flat.nbytes for tensor in tensors}, copies)
        mine += [tensor for tensor in tensors if owner[tensor.name] == tensor.copy]
    return mine


def deal(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Which rank writes which tensor when all hold all of it: the largest first, each to the least burdened."""
    burden = [0] * ranks
    owner: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = burden.index(min(burden))
        owner[name] = rank
        burden[rank] += sizes[name]
    return owner


def fill(tensor: LocalTensor, read: StateReader) -> None:
    """Overwrite a live range, on any device, with the saved one."""
    host = tensor.flat if tensor.flat.device.type == "cpu" else torch.empty_like(tensor.flat, device="cpu")
    read(tensor.name, tensor.shape, tensor.start, host)
    if host is not tensor.flat:
        tensor.flat.copy_(host)


def allocate_state(optimizer: Optimizer) -> None:
    """Make a torch optimizer allocate its state, by one update that changes no weight.

    A zero gradient at a zero learning rate leaves every parameter as it is; the state is overwritten afterwards.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
