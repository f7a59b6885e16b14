"""How does a text continue?"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from mypt_dist.config.problems import near_miss
from mypt_dist.errors import ConfigError
from mypt_dist.generation.ids import generate_ids
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.tokenizers import StreamDecoder, Tokenizer
from mypt_dist.tokenizers.ordinary import text_ids

OnText: TypeAlias = Callable[[int, str], None]
"""Called with a row's number and its newest text."""


def generate_text(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    on_text: OnText | None = None,
) -> list[str]:
    """Only the new text of each prompt, without the stop token. An empty prompt begins a new document.

    ``on_text`` is called as soon as whole characters are there; a row's pieces, joined, are its result.
    Raises `ConfigError` if model and tokenizer do not fit, or a stop token does not exist.
    """
    sampling = sampling.model_copy(update={"stop": stop_ids(sampling, tokenizer)})
    starts = [tokenizer.encode(prompt).tolist() or [tokenizer.eot_id] for prompt in prompts]
    decoders = [StreamDecoder(tokenizer) for _ in prompts]

    def show(row: int, text: str) -> None:
        if text and on_text is not None:
            on_text(row, text)

    rows = generate_ids(
        model,
        starts,
        sampling,
        vocab_size=_usable_ids(model, tokenizer),
        on_tokens=lambda row, ids: show(row, decoders[row].feed(ids)),
    )
    for row, decoder in enumerate(decoders):
        show(row, decoder.finish())
    return [tokenizer.decode(ids) for ids in rows]


def _usable_ids(model: CausalLM, tokenizer: Tokenizer) -> int:
    """Ids that may be picked. A model of another program may have rows for text alone, and none for control tokens."""
    return model.vocab_size if model.vocab_size == text_ids(tokenizer) else tokenizer.vocab_size


def stop_ids(sampling: SamplingConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The stop tokens' ids; the end of text's if none are given. Raises `ConfigError` for an unknown one."""
    if sampling.stop is None:
        return (tokenizer.eot_id,)
    return tuple(_stop_id(token, tokenizer) for token in sampling.stop)


def _stop_id(token: int | str, tokenizer: Tokenizer) -> int:
    if isinstance(token, str):
        if token not in tokenizer.specials:
            known = ", ".join(tokenizer.specials)
            hint = near_miss(token, tokenizer.specials)
            raise ConfigError(f"stop: {token!r} is no special token{hint} (known: {known})")
        return tokenizer.specials[token]
    if not 0 <= token < tokenizer.vocab_size:
        raise ConfigError(f"stop: {token} is no id of a vocabulary of {tokenizer.vocab_size} tokens")
    return token
