"""How well does a model predict a dataset? Every token but the first, each once, over windows side by side.

Of rows of conversations every row, and what of it is learned, each token with its weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mypt_dist.data.loader import TokenGather
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.order import Samples
from mypt_dist.data.progress import Progress
from mypt_dist.data.stream import TokenStream
from mypt_dist.errors import ConfigError
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.training.evaluate import language_metrics


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model makes of a split."""

    nats: float
    """Of all predicted tokens, each times its weight."""
    tokens: int
    weight: float
    """Of all predicted tokens: their number, where none has another weight than 1."""
    bytes: float
    """Of UTF-8 that the predicted tokens stand for, each times its weight."""
    windows: int

    def metrics(self, prefix: str) -> dict[str, float]:
        """``PREFIX/loss`` in nats per token, ``PREFIX/ppl``, ``PREFIX/bpb`` in bits per byte."""
        return language_metrics(prefix, self.nats, self.weight, self.bytes)


def check_tokenizer(manifest: DatasetManifest, tokenizer: Tokenizer, where: object) -> None:
    """Raise `ConfigError` where the dataset at ``where`` is not made of the model's own tokens."""
    if manifest.tokenizer.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{where} was prepared with another tokenizer ({manifest.tokenizer.kind} of {manifest.vocab_size:,} ids, "
            f"{manifest.tokenizer.fingerprint[:12]}) than the model knows ({tokenizer.kind} of "
            f"{tokenizer.vocab_size:,} ids, {tokenizer.fingerprint[:12]}): prepare its text alike"
        )


@dataclass(frozen=True, slots=True)
class Text:
    """What is predicted, and how."""

    folder: Path
    """Of a prepared dataset."""
    split: str = "val"
    batch_size: int = 8
    document_mask: bool = False
    """As in training: tokens see those of their own document only."""


@torch.inference_mode()
def predicted(
    model: CausalLM, tokenizer: Tokenizer, text: Text, progress: Progress = lambda done, total: None
) -> Predicted:
    """Predict every token of a split but its first.

    Windows are as long as the model's context and begin without knowing what stands before them; the last may be
    shorter. ``progress`` counts tokens. Raises `ConfigError` for another tokenizer or an empty split, `DataError`.
    """
    manifest = DatasetManifest.read(text.folder)
    check_tokenizer(manifest, tokenizer, text.folder)
    stream = TokenStream.open(text.folder, manifest, text.split)
    if len(stream) < 2:
        raise ConfigError(
            f"{text.folder}: its {text.split} split holds {len(stream)} tokens: there is nothing to predict"
        )
    end = tokenizer.eot_id if text.document_mask else None
    gather = TokenGather([stream], tokenizer.byte_lengths(), model.vocab_size, document_end=end)
    device = next(model.parameters()).device
    nats, weight, num_bytes, targets, windows, done = 0.0, 0.0, 0.0, 0, 0, 0
    plan = list(_windows(stream, model.context, text.batch_size))
    positions = sum(len(samples) * length for samples, length in plan)
    for samples, length in plan:
        host = gather.batch(samples, length)
        batch = host.to(device)
        nats += float(model(batch.input_ids, **batch.keywords()).double())
        weight, targets = weight + host.divisor, targets + host.num_targets
        num_bytes += gather.num_bytes([host])
        done, windows = done + len(samples) * length, windows + len(samples)
        progress(done, positions)
    return Predicted(nats, targets, weight, num_bytes, windows)


def _windows(stream: TokenStream, context: int, batch_size: int) -> Iterator[tuple[Samples, int]]:
    """Where the windows of each batch begin, and how many tokens each of them predicts."""
    if (row := stream.row_length) is not None:
        if row - 1 > context:
            raise ConfigError(
                f"{stream.name}: its rows are packed for a context of {row - 1:,}, the model has {context:,}"
            )
        whole, rest, stride, length = len(stream) // row, 0, row, row - 1
    else:
        (whole, rest), stride, length = divmod(len(stream) - 1, context), context, context
    for first in range(0, whole, batch_size):
        yield _samples(np.arange(first, min(first + batch_size, whole), dtype=np.int64) * stride), length
    if rest:
        yield _samples(np.array([whole * context], dtype=np.int64)), rest


def _samples(starts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Samples:
    nothing = np.zeros_like(starts)
    return Samples(nothing, nothing, nothing, starts)
