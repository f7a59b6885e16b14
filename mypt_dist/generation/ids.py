"""How do token ids continue, with a cache, in batches, and past the model's context?

The cache holds every token of a row but the newest. When a row fills the context, the model forgets the older half:
the last ``context / 2`` tokens are computed anew at the first positions. So a new token costs one forward pass of one
token and, spread over the tokens between two such moments, one more: the same however long the text becomes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from mypt_dist.errors import ConfigError
from mypt_dist.generation import filters
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.models.layers.kv_cache import KVCache

OnTokens: TypeAlias = Callable[[int, Sequence[int]], None]
"""Called with a row's number and its newest ids."""


def generate_ids(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    *,
    vocab_size: int,
    on_tokens: OnTokens | None = None,
) -> list[list[int]]:
    """Only the new ids of each prompt, without the stop token. See `stream_ids`."""
    rows: list[list[int]] = [[] for _ in prompts]
    for new in stream_ids(model, prompts, sampling, vocab_size=vocab_size):
        for row, token in new.items():
            rows[row].append(token)
            if on_tokens is not None:
                on_tokens(row, [token])
    return rows


def stream_ids(
    model: CausalLM, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, vocab_size: int
) -> Iterator[Mapping[int, int]]:
    """Yield, step by step, the newest id of each row that is still going. A row's ids depend on no other row.

    Ids from ``vocab_size`` on are never picked. The model is in evaluation mode until the iterator ends or is closed.
    Raises `ConfigError` for an empty prompt, an id outside the vocabulary, or a stop token that is not an id.
    """
    _check(model, prompts, sampling, vocab_size)
    return _stream(model, prompts, sampling, vocab_size)


def _stream(
    model: CausalLM, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, vocab_size: int
) -> Iterator[Mapping[int, int]]:
    with _evaluating(model):
        rows = _Rows(model, prompts, sampling, vocab_size)
        while rows.going:
            new = rows.step()
            if new:
                yield new


class _Rows:
    """Rows under way. ``going[i]`` is the number of the prompt that row i of the cache continues."""

    def __init__(
        self, model: CausalLM, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, vocab_size: int
    ) -> None:
        self._model = model
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._stop = frozenset(sampling.stop or ())
        self._device = next(model.parameters()).device
        self._ids = [list(prompt) for prompt in prompts]
        self._ends = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
        self._generators = [torch.Generator().manual_seed(sampling.seed + row) for row in range(len(prompts))]
        self.going = list(range(len(prompts)))
        self._cache = self._filled([ids[-model.context : -1] for ids in self._ids], max(self._ends, default=1))

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Add a token to every row; the new ones by row. A row that ends leaves."""
        self._forget()
        newest = torch.tensor([[self._ids[row][-1]] for row in self.going], device=self._device)
        last = self._model.hidden(newest, self._cache)[:, -1]
        tokens = self._pick(self._model.get_output_embeddings()(last).float()).tolist()
        new = {row: token for row, token in zip(self.going, tokens, strict=True) if token not in self._stop}
        for row, token in new.items():
            self._ids[row].append(token)
        keep = [i for i, row in enumerate(self.going) if row in new and len(self._ids[row]) < self._ends[row]]
        if keep and len(keep) < len(self.going):
            self._cache.keep_rows(keep)
        self.going = [self.going[i] for i in keep]
        return new

    def _pick(self, logits: Tensor) -> Tensor:
        sampling = self._sampling
        logits = filters.without_unused(logits, self._vocab_size)
        recent = [self._ids[row][-sampling.repetition_window :] for row in self.going]
        logits = filters.penalised(logits, recent, sampling.penalty)
        if sampling.temperature == 0:
            return logits.argmax(dim=-1)
        logits = filters.top_k(logits / sampling.temperature, sampling.top_k)
        uniforms = [torch.rand((), generator=self._generators[row], dtype=torch.float64) for row in self.going]
        return filters.drawn(filters.top_p(logits, sampling.top_p), torch.stack(uniforms).to(logits.device))

    def _forget(self) -> None:
        """Make room in rows that fill the context, so that the newest token comes after half a context of older."""
        full = [i for i, length in enumerate(self._cache.lengths) if length == self._cache.capacity]
        if full:
            keep = max(1, self._model.context // 2)
            windows = [self._ids[self.going[i]][-keep:-1] for i in full]
            self._cache.replace_rows(full, self._filled(windows, keep))

    @torch.inference_mode()
    def _filled(self, windows: Sequence[Sequence[int]], capacity: int) -> KVCache:
        """A cache that holds these ids, with room for ``capacity`` a row at most."""
        cache = self._model.new_cache(len(windows), min(capacity, self._model.context))
        longest = max(map(len, windows), default=0)
        if longest:
            # Padded on the right: what comes after a row's end is seen by none of its tokens, and forgotten.
            padded = [[*window, *[0] * (longest - len(window))] for window in windows]
            self._model.hidden(torch.tensor(padded, device=self._device), cache)
            cache.rewind([len(window) for window in windows])
        return cache


@contextmanager
def _evaluating(model: CausalLM) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check(model: CausalLM, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, vocab_size: int) -> None:
    if vocab_size > model.vocab_size:
        raise ConfigError(f"the tokenizer has {vocab_size} tokens, the model only {model.vocab_size}")
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(f"prompt {number} is empty: begin with the tokenizer's end of text")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise ConfigError(f"prompt {number} holds ids outside the vocabulary of {vocab_size} tokens")
    names = [token for token in sampling.stop or () if isinstance(token, str)]
    if names:
        raise ConfigError(f"stop tokens of ids are ids, got {', '.join(map(repr, names))}")
