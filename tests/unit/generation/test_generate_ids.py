"""Batches, the cache, the sliding window, seeds and stops against a generator that has none of them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch

from mypt_dist.errors import ConfigError
from mypt_dist.generation import SamplingConfig, generate_ids, stream_ids
from mypt_dist.models import MODELS
from mypt_dist.models.layers.causal_lm import CausalLM

ROWS, USED, CONTEXT = 40, 33, 12


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MODELS.names())
def model(request: pytest.FixtureRequest) -> CausalLM:
    torch.manual_seed(0)
    built = MODELS[request.param].tiny(ROWS).model_copy(update={"context": CONTEXT, "dropout": 0.2}).build()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return built


def _greedy(**changes: object) -> SamplingConfig:
    return SamplingConfig.model_validate({"temperature": 0, "max_new_tokens": 40, **changes})


def _plain(model: CausalLM, prompt: Sequence[int], count: int, context: int = CONTEXT) -> list[int]:
    """Greedy, without cache or batch: what the model sees grows to the context, then starts again at half of it."""
    ids, begin = list(prompt), max(0, len(prompt) - context)
    model.eval()
    with torch.no_grad():
        for _ in range(count):
            if len(ids) - begin > context:
                begin = len(ids) - context // 2
            ids.append(int(model(torch.tensor([ids[begin:]]))[0, -1, :USED].argmax()))
    return ids[len(prompt) :]


PROMPTS = [[3, 1, 4], [1], list(range(2, 14)), list(range(5, 30)), [9, 2, 6, 5, 3]]


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_cached_generation_is_uncached_generation_also_past_the_context(model: CausalLM, prompt: list[int]) -> None:
    assert generate_ids(model, [prompt], _greedy(), vocab_size=USED) == [_plain(model, prompt, 40)]


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(model: CausalLM) -> None:
    together = generate_ids(model, PROMPTS, _greedy(), vocab_size=USED)
    assert together == [_plain(model, prompt, 40) for prompt in PROMPTS]


def test_a_sampled_row_depends_on_no_other_row(model: CausalLM) -> None:
    sampling = SamplingConfig(max_new_tokens=30, temperature=1.5, top_k=0, stop=(7, 8, 9))
    together = generate_ids(model, PROMPTS, sampling, vocab_size=USED)
    assert len({len(row) for row in together}) > 1, "the rows should have stopped at different places"
    for row, prompt in enumerate(PROMPTS):
        alone = sampling.model_copy(update={"seed": sampling.seed + row})
        assert generate_ids(model, [prompt], alone, vocab_size=USED) == [together[row]]


@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_shortest_contexts_slide_too(context: int) -> None:
    torch.manual_seed(0)
    model = MODELS["gpt"].tiny(ROWS).model_copy(update={"context": context}).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    keep = max(1, context // 2)
    ids, begin = [1, 2, 3, 4], max(0, 4 - context)
    with torch.no_grad():
        for _ in range(9):
            if len(ids) - begin > context:
                begin = len(ids) - keep
            ids.append(int(model.eval()(torch.tensor([ids[begin:]]))[0, -1, :USED].argmax()))
    assert generate_ids(model, [[1, 2, 3, 4]], _greedy(max_new_tokens=9), vocab_size=USED) == [ids[4:]]


def test_the_cost_of_a_token_does_not_grow_with_the_text(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hidden = model.hidden

    def counted(ids: torch.Tensor, cache: object = None) -> torch.Tensor:
        seen.append(ids.numel())
        return hidden(ids, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden", counted)
    generate_ids(model, [[1, 2]], _greedy(max_new_tokens=500), vocab_size=USED)
    assert sum(seen) <= 2 * 500 + 2
    assert max(seen) <= CONTEXT // 2


def test_the_same_seed_gives_the_same_ids_and_another_seed_others(model: CausalLM) -> None:
    sampling = SamplingConfig(max_new_tokens=20, temperature=1.0)
    first, again = (generate_ids(model, [[1, 2]], sampling, vocab_size=USED) for _ in range(2))
    other = generate_ids(model, [[1, 2]], sampling.model_copy(update={"seed": 99}), vocab_size=USED)
    assert first == again
    assert first != other


def test_equal_prompts_of_a_batch_differ(model: CausalLM) -> None:
    rows = generate_ids(model, [[1, 2]] * 3, SamplingConfig(max_new_tokens=20, temperature=1.5), vocab_size=USED)
    assert len({tuple(row) for row in rows}) == 3


def test_the_global_generator_is_left_alone_and_has_no_say(model: CausalLM) -> None:
    sampling = SamplingConfig(max_new_tokens=10)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = generate_ids(model, [[1]], sampling, vocab_size=USED)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert generate_ids(model, [[1]], sampling, vocab_size=USED) == first


def test_ids_beyond_the_vocabulary_are_never_picked(model: CausalLM) -> None:
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(ROWS))
    with torch.no_grad():
        head.bias[USED:] = 100
    for sampling in (_greedy(), SamplingConfig(max_new_tokens=40, temperature=5.0, top_k=0, top_p=1.0)):
        (row,) = generate_ids(model, [[1]], sampling, vocab_size=USED)
        assert max(row) < USED


def test_a_stop_token_ends_its_row_and_is_not_part_of_it(model: CausalLM) -> None:
    full = _plain(model, PROMPTS[0], 40)
    stop = full[15]
    other = _plain(model, PROMPTS[4], 40)
    rows = generate_ids(model, [PROMPTS[0], PROMPTS[4]], _greedy(stop=(stop,)), vocab_size=USED)
    assert rows[0] == full[: full.index(stop)]
    assert rows[1] == (other[: other.index(stop)] if stop in other else other)


def test_a_row_may_end_at_once(model: CausalLM) -> None:
    first = _plain(model, [1], 1)[0]
    assert generate_ids(model, [[1]], _greedy(stop=(first,)), vocab_size=USED) == [[]]
    assert generate_ids(model, [], _greedy(), vocab_size=USED) == []


def test_the_penalty_looks_at_the_last_tokens_only(model: CausalLM) -> None:
    greedy = _greedy(max_new_tokens=6)
    plain = generate_ids(model, [[1, 2, 3]], greedy, vocab_size=USED)
    strong = greedy.model_copy(update={"repetition_penalty": 1e6})
    (row,) = generate_ids(model, [[1, 2, 3]], strong, vocab_size=USED)
    assert len({1, 2, 3, *row}) == 9, "no token may come twice"
    assert row != plain[0] or len({1, 2, 3, *plain[0]}) == 9
    short = strong.model_copy(update={"repetition_window": 1, "max_new_tokens": 40})
    (row,) = generate_ids(model, [[1, 2, 3]], short, vocab_size=USED)
    assert all(a != b for a, b in pairwise(row)), "the last token may not come again"
    assert len(set(row)) < len(row), "but earlier ones may"


def test_ids_arrive_as_they_are_made(model: CausalLM) -> None:
    steps = list(stream_ids(model, PROMPTS[:2], _greedy(max_new_tokens=3), vocab_size=USED))
    rows = generate_ids(model, PROMPTS[:2], _greedy(max_new_tokens=3), vocab_size=USED)
    assert steps == [{0: a, 1: b} for a, b in zip(*rows, strict=True)]
    heard: list[tuple[int, list[int]]] = []
    generate_ids(
        model,
        PROMPTS[:2],
        _greedy(max_new_tokens=3),
        vocab_size=USED,
        on_tokens=lambda row, ids: heard.append((row, list(ids))),
    )
    assert heard == [(row, [token]) for step in steps for row, token in step.items()]


def test_the_model_evaluates_meanwhile_and_trains_again_afterwards(model: CausalLM) -> None:
    model.train()
    steps = stream_ids(model, [[1]], _greedy(max_new_tokens=5), vocab_size=USED)
    assert model.training
    next(iter(steps))
    assert not model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled(), "the caller's code runs between steps"
    steps.close()  # type: ignore[attr-defined]
    assert model.training
    generate_ids(model.eval(), [[1]], _greedy(), vocab_size=USED)
    assert not model.training


def test_training_goes_on_after_generating(model: CausalLM) -> None:
    model.train()
    generate_ids(model, [[1]], _greedy(max_new_tokens=3), vocab_size=USED)
    model(torch.tensor([[1, 2, 3]])).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("prompts", "stop", "vocab_size", "said"),
    [
        ([[1], []], (), USED, "prompt 1 is empty"),
        ([[1, USED]], (), USED, f"prompt 0 holds ids outside the vocabulary of {USED}"),
        ([[-1]], (), USED, "prompt 0 holds ids outside"),
        ([[1]], (), ROWS + 1, f"the tokenizer has {ROWS + 1} tokens, the model only {ROWS}"),
        ([[1]], ("<|user|>",), USED, "stop tokens of ids are ids, got '<|user|>'"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_cannot_be_continued_is_refused_before_the_first_step(
    model: CausalLM, prompts: list[list[int]], stop: tuple[int | str, ...], vocab_size: int, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        stream_ids(model, prompts, _greedy(stop=stop), vocab_size=vocab_size)
    assert said in str(caught.value)
