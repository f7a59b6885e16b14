"""What a GPU's kernels keep for the backward pass, where those of a CPU keep something else.

A CPU build of torch can follow shapes but has the CPU's kernels: attention with dropout makes whole score matrices,
dropout keeps a mask as wide as its input, RMSNorm keeps every step of its formula. The three replacements here keep
what the fused kernels of a GPU keep. They compute nothing of use and are for tensors without data only.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Kernels(TorchFunctionMode):
    """Inside it, functions called on tensors without data behave as in training on a GPU, or on a CPU."""

    def __init__(self, *, gpu: bool) -> None:
        super().__init__()
        # A tensor without data has no truth. Who asks whether all labels are learned is told the worst for memory.
        self._instead: dict[Any, Callable[..., Any]] = {torch.Tensor.__bool__: lambda tensor: True}
        if gpu:
            self._instead |= {
                F.scaled_dot_product_attention: _flash_attention,
                F.dropout: _fused_dropout,
                F.rms_norm: _fused_rms_norm,
            }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._instead.get(func, func)(*args, **(kwargs or {}))


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
    # Dropout happens inside the kernel, from a seed.
    return F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, **kwargs)


def _fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def _fused_rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    result: Tensor = _RMSNorm.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


class _RMSNorm(torch.autograd.Function):
    """Keeps its input, its gain and one fp32 number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)
