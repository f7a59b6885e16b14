"""Text in, text out: whole characters, stop tokens by name, models and tokenizers that fit."""

from itertools import pairwise

import pytest
import torch

from mypt_dist.errors import ConfigError
from mypt_dist.generation import SamplingConfig, generate_text
from mypt_dist.generation.text import stop_ids
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.gpt.module import GPT
from mypt_dist.tokenizers import END_OF_TEXT, ByteTokenizer, Tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    return ByteTokenizer()


def _fixed(tokenizer: Tokenizer, successor: dict[int, int]) -> GPT:
    """A model whose likeliest next token depends on the last alone: ``successor``, or else the end of text."""
    rows = -(-tokenizer.vocab_size // 64) * 64
    config = GPTConfig(vocab_size=rows, context=8, n_layer=1, n_head=1, n_embd=rows, tie_embeddings=False)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1)
        model.embed.weight.copy_(torch.eye(rows))
        for token in range(rows):
            model.head.weight[successor.get(token, tokenizer.eot_id), token] = 1
    return model


def _spelling(tokenizer: Tokenizer, text: str) -> dict[int, int]:
    ids = tokenizer.encode(text).tolist()
    return dict(pairwise(ids))


GREEDY = SamplingConfig(temperature=0, max_new_tokens=30)


def test_a_prompt_is_continued_to_the_end_of_text(tokenizer: Tokenizer) -> None:
    model = _fixed(tokenizer, _spelling(tokenizer, "over it"))
    assert generate_text(model, tokenizer, ["ov", "o", "so e"], GREEDY) == ["er it", "ver it", "r it"]


def test_an_empty_prompt_begins_a_new_document(tokenizer: Tokenizer) -> None:
    first = {tokenizer.eot_id: ord("a"), ord("a"): ord("b"), ord("b"): ord("c")}
    assert generate_text(_fixed(tokenizer, first), tokenizer, [""], GREEDY) == ["abc"]


def test_characters_arrive_whole_and_joined_are_the_result(tokenizer: Tokenizer) -> None:
    model = _fixed(tokenizer, _spelling(tokenizer, "aé€😀"))
    heard: list[tuple[int, str]] = []
    (text,) = generate_text(model, tokenizer, ["a"], GREEDY, on_text=lambda row, piece: heard.append((row, piece)))
    assert text == "é€😀"
    assert heard == [(0, "é"), (0, "€"), (0, "😀")]


def test_half_a_character_at_the_end_is_shown_as_broken(tokenizer: Tokenizer) -> None:
    model = _fixed(tokenizer, _spelling(tokenizer, "a€"))
    heard: list[str] = []
    sampling = GREEDY.model_copy(update={"max_new_tokens": 2})
    (text,) = generate_text(model, tokenizer, ["a"], sampling, on_text=lambda _, piece: heard.append(piece))
    assert text == "�"
    assert heard == ["�"]


def test_text_without_stops_goes_through_the_end_of_text(tokenizer: Tokenizer) -> None:
    model = _fixed(tokenizer, {ord("a"): tokenizer.eot_id, tokenizer.eot_id: ord("a")})
    sampling = GREEDY.model_copy(update={"stop": (), "max_new_tokens": 3})
    assert generate_text(model, tokenizer, ["a"], sampling) == [f"{END_OF_TEXT}a{END_OF_TEXT}"]


def test_stops_are_found_by_name(tokenizer: Tokenizer) -> None:
    user = tokenizer.specials["<|user|>"]
    model = _fixed(tokenizer, {ord("a"): ord("b"), ord("b"): user})
    sampling = GREEDY.model_copy(update={"stop": ("<|user|>",)})
    assert generate_text(model, tokenizer, ["a"], sampling) == ["b"]
    assert stop_ids(sampling, tokenizer) == (user,)
    assert stop_ids(SamplingConfig(stop=(3,)), tokenizer) == (3,)
    assert stop_ids(SamplingConfig(), tokenizer) == (tokenizer.eot_id,)


@pytest.mark.parametrize(
    ("stop", "said"),
    [("<|usr|>", "'<|usr|>' is no special token, did you mean '<|user|>'"), (9999, "9999 is no id"), (-1, "-1 is no")],
)
def test_stops_that_do_not_exist_are_refused(tokenizer: Tokenizer, stop: int | str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        generate_text(_fixed(tokenizer, {}), tokenizer, ["a"], SamplingConfig(stop=(stop,)))
    assert said in str(caught.value)


def test_a_model_smaller_than_the_tokenizer_is_refused(tokenizer: Tokenizer) -> None:
    model = GPT(GPTConfig.tiny(64))
    with pytest.raises(ConfigError, match="the model only 64"):
        generate_text(model, tokenizer, ["a"], GREEDY)
