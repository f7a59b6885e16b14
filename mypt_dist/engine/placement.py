"""Which flat ranges of which tensors a rank holds, and which of them it writes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
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


StateReader: TypeAlias = Callable[[str, tuple[int, ...], int, Tensor], None]
"""``read(name, shape, start, into)`` fills the 1-D host tensor ``into`` with a flat range of a saved tensor."""


def named_state(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a run needs to go on, under its logical name. A tied weight stands once."""
    names = {id(p): name for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        yield f"model/{name}", parameter.detach()
    for owner, state in optimizer.state.items():
        for key, value in state.items():
            yield f"optimizer/{key}/{names[id(owner)]}", value.detach()


def deal(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Which rank writes which tensor when all hold all of it: the largest first, each to the least burdened."""
    burden = [0] * ranks
    owner: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = burden.index(min(burden))
        owner[name] = rank
        burden[rank] += sizes[name]
    return owner


def fill(tensor: Tensor, name: str, read: StateReader) -> None:
    """Overwrite a live tensor, on any device, with the saved one."""
    host = tensor if tensor.device.type == "cpu" and tensor.is_contiguous() else torch.empty_like(tensor, device="cpu")
    read(name, tuple(tensor.shape), 0, host.view(-1))
    if host is not tensor:
        tensor.copy_(host)
