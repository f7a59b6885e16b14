"""The random generators that dropout draws from, as JSON."""

import base64

import torch
from torch import Tensor

from mypt_dist.world import JSON


def rng_state() -> dict[str, JSON]:
    """States of torch's generators on this rank."""
    state: dict[str, JSON] = {"cpu": _encode(torch.get_rng_state())}
    if torch.cuda.is_available():
        state["cuda"] = _encode(torch.cuda.get_rng_state())
    return state


def set_rng_state(state: dict[str, JSON]) -> None:
    """Continue where `rng_state` was taken, on the same kind of device."""
    torch.set_rng_state(_decode(str(state["cpu"])))
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(_decode(str(state["cuda"])))


def _encode(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _decode(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
