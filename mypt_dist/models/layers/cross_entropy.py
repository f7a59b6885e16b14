"""How is the loss of a large vocabulary computed without ever holding its logits?

A walk over chunks of tokens: the logits of a chunk, its loss, and at once the gradients of all that made them, before
the next chunk takes their place. The backward pass only multiplies by a number. The idea is that of Liger's fused
linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989); Cut Cross-Entropy (Wijmans et al., 2024, arXiv:2411.09009)
goes further, on GPUs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100
"""Label without anything to learn: the one that torch's own losses ignore."""

CHUNK_ELEMENTS = 1 << 25
"""Logits of a chunk: 128 MiB in fp32. On two CPU cores with 50 304 ids, 384 wide, this is as fast as one chunk of any
size; half of it costs 7 to 20 %, a quarter 11 to 25 %, because every chunk reads and writes the weight's whole
gradient. With 320 ids it means 104 857 tokens, which is one chunk."""


def cross_entropy_sum(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, label_weights: Tensor | None = None
) -> Tensor:
    """Nats over all learned labels of the logits ``hidden @ weight.T + bias``: a scalar in fp32, or fp64 for fp64.

    ``hidden`` is (..., E), ``weight`` (V, E), ``bias`` (V,), ``labels`` (...) int64 in [0, V) or `IGNORE`, and
    ``label_weights`` (...) in fp32, or the bits of that as int32, multiply the nats of each label. Products are
    in autocast's dtype, or else in ``hidden``'s; the loss is in fp32, and so is the sum of the weight's gradient over
    chunks. Can be differentiated once. Raises `ValueError` if there is not one label, and one weight if there are any,
    for each row of ``hidden``.
    """
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit hidden states {tuple(hidden.shape)}")
    if label_weights is not None and label_weights.shape != labels.shape:
        raise ValueError(f"weights of shape {tuple(label_weights.shape)} do not fit labels {tuple(labels.shape)}")
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    weights = None if label_weights is None else _of_bits(label_weights.flatten())
    if _on_host(labels):
        weights = None if weights is None else learned_rows(weights, targets)[0]
        rows, targets = learned_rows(rows, targets)
    else:
        rows = masked_rows(rows, targets)
    if not torch.is_grad_enabled():
        rows, weight, bias = rows.detach(), weight.detach(), None if bias is None else bias.detach()
    loss: Tensor = ChunkedCrossEntropy.apply(rows, weight, bias, targets, weights)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def counted_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, label_weights: Tensor | None = None
) -> Tensor:
    """(2,) in fp64: `cross_entropy_sum`, and how many learned labels are the likeliest token. No gradient."""
    rows, targets = learned_rows(hidden.flatten(0, -2), labels.flatten())
    weights = None if label_weights is None else learned_rows(_of_bits(label_weights.flatten()), labels.flatten())[0]
    place, dtype = rows.device.type, rows.dtype
    if torch.is_autocast_enabled(place):
        dtype = torch.get_autocast_dtype(place)
    counts = rows.new_zeros(2, dtype=torch.float64)
    with torch.autocast(place, enabled=False):
        head = weight.to(dtype), None if bias is None else bias.to(dtype)
        for chunk in _chunks(rows, targets, weights, len(weight), dtype):
            logits = F.linear(chunk.hidden, *head)
            at_label = logits.gather(1, chunk.labels)
            nats = chunk.weighted(logits.to(_exact(dtype)).logsumexp(-1, keepdim=True) - at_label)
            counts += torch.stack((nats.double().sum(), (at_label >= logits.amax(-1, keepdim=True)).sum()))
    return counts


def _of_bits(weights: Tensor) -> Tensor:
    """Weights in fp32, which may have come as int32 with the same bits."""
    return weights.view(torch.float32) if weights.dtype == torch.int32 else weights


def learned_rows(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, ...) and (N,) without what is ignored."""
    learned = labels != IGNORE
    return (hidden, labels) if learned.all() else (hidden[learned], labels[learned])


def masked_rows(hidden: Tensor, labels: Tensor) -> Tensor:
    """(N, E) with zeros where the label (N,) is ignored: they neither learn nor add to the weight's gradient."""
    return hidden * (labels != IGNORE)[:, None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the tokens, and what of them is learned."""

    place: slice
    hidden: Tensor
    """(n, E), in the dtype of the products."""
    labels: Tensor
    """(n, 1), 0 where there is nothing to learn."""
    learned: Tensor
    """(n, 1), 1 or 0, in the dtype of the products."""
    weights: Tensor | None
    """(n, 1) of the loss, in the dtype of the loss; None: 1."""

    def weighted(self, values: Tensor) -> Tensor:
        """(n, ...) in the dtype of the loss, each row times its weight."""
        return values if self.weights is None else values * self.weights


class ChunkedCrossEntropy(torch.autograd.Function):
    """`cross_entropy_sum` of rows (N, E), labels (N,) and weights (N,); rows with an ignored label must be zero.

    Gradients are made of whatever requires one, although without autograd nobody could use them: detach it then.
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - autograd knows tensors that come one by one
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, weights: Tensor | None
    ) -> Tensor:
        place, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(place):
            dtype = torch.get_autocast_dtype(place)
        gradients = Gradients.of(hidden, weight, bias, ctx.needs_input_grad)
        loss = hidden.new_zeros((), dtype=_exact(dtype))
        with torch.autocast(place, enabled=False):
            head = weight.to(dtype), None if bias is None else bias.to(dtype)
            for chunk in _chunks(hidden, labels, weights, len(weight), dtype):
                loss += _loss_of(chunk, *head, gradients)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        # Not in place, which would save the memory of one weight: a graph may be walked twice. Autograd casts what is
        # returned to the dtype of what it is a gradient of.
        return (*(None if gradient is None else gradient * scale for gradient in ctx.saved_tensors), None, None)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the sum over the chunks so far; none where nobody asked."""

    hidden: Tensor | None
    """(N, E)."""
    weight: Tensor | None
    """(V, E), in fp32 at least."""
    bias: Tensor | None
    """(V,), in fp32 at least."""

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> "Gradients":
        """Zero for the weight and the bias, not yet anything for the hidden states."""
        return cls(
            torch.empty_like(hidden) if wanted[0] else None,
            weight.new_zeros(weight.shape, dtype=_exact(weight.dtype)) if wanted[1] else None,
            bias.new_zeros(bias.shape, dtype=_exact(bias.dtype)) if bias is not None and wanted[2] else None,
        )

    @property
    def wanted(self) -> bool:
        """Whether anybody asked."""
        return not (self.hidden is None and self.weight is None and self.bias is None)

    def add(self, chunk: Chunk, errors: Tensor, weight: Tensor) -> None:
        """``errors``, (n, V): the derivative of the loss by the logits, were every label of the chunk learned."""
        if self.hidden is not None:
            _put_product(self.hidden[chunk.place], errors, weight)
        if self.weight is not None:
            _add_product(self.weight, errors.t(), chunk.hidden)
        if self.bias is not None:
            _add_product(self.bias[:, None], errors.t(), chunk.learned)


def _on_host(labels: Tensor) -> bool:
    # To know how many rows are left, the host would wait for an accelerator; a fake tensor holds no values at all.
    return labels.device.type == "cpu" and type(labels) is Tensor


def _chunks(
    hidden: Tensor, labels: Tensor, weights: Tensor | None, vocab_size: int, dtype: torch.dtype
) -> Iterator[Chunk]:
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    for start in range(0, len(labels), size):
        place = slice(start, start + size)
        part = labels[place, None]
        ignored = part == IGNORE
        own = None if weights is None else weights[place, None].to(_exact(dtype))
        yield Chunk(place, hidden[place].to(dtype), part.masked_fill(ignored, 0), (~ignored).to(dtype), own)


def _loss_of(chunk: Chunk, weight: Tensor, bias: Tensor | None, gradients: Gradients) -> Tensor:
    logits = F.linear(chunk.hidden, weight, bias)
    highest, at_label = logits.amax(-1, keepdim=True), logits.gather(1, chunk.labels)
    exact = _exact(logits.dtype)
    probabilities = torch.softmax(logits, -1, dtype=exact)
    del logits
    # The likeliest token's probability is 1 / sum(exp(logits - highest)): the only part of the loss yet unknown.
    nats = highest.to(exact) - at_label.to(exact) - probabilities.amax(-1, keepdim=True).log()
    if gradients.wanted:
        errors = probabilities.scatter_(1, chunk.labels, probabilities.gather(1, chunk.labels) - 1)
        gradients.add(chunk, chunk.weighted(errors).to(weight.dtype), weight)
    return chunk.weighted(nats * chunk.learned).sum()


def _put_product(place: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == place.dtype:
        torch.mm(left, right, out=place)
    else:
        place.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
