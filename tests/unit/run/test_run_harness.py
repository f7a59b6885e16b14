"""The lm-evaluation-harness asks our model, offline, on task files of this test; figures are worked out by hand."""

import json
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance

from mypt_dist.errors import ConfigError
from mypt_dist.generation.ids import generate_ids
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.models import MODELS
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.run.evaluation.harness import Asked, HarnessModel, run_tasks
from mypt_dist.tokenizers import build_tokenizer

BYTES = build_tokenizer("byte")
CHOICES = [
    ("the sky is", [" blue", " a cat"], 0),
    ("one and one is", [" two", " three", " x"], 0),
    ("a", ["b", "c"], 1),
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
  cache_dir: {cache}
test_split: test
{rest}
metadata: {{version: 3}}
"""


@pytest.fixture
def model() -> CausalLM:
    torch.manual_seed(0)
    return MODELS["gpt"].tiny(vocab_size=320).build().eval()


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"q": question, "choices": choices, "gold": gold} for question, choices, gold in CHOICES]
    (folder / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {
        "choice": "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: choices\ndoc_to_target: gold\n"
        "target_delimiter: ''\nmetric_list: [{metric: acc}]",
        "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{q}}'\n"
        "metric_list: [{metric: bits_per_byte}]",
    }
    for name, rest in kinds.items():
        text = TASK.format(name=name, file=folder / "choice.jsonl", cache=tmp_path / "cache", rest=rest)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def score(model: CausalLM, before: list[int], after: list[int]) -> tuple[float, bool]:
    """Token by token, each asked of a pass of its own."""
    total, greedy = 0.0, True
    with torch.no_grad():
        for number, token in enumerate(after):
            seen = torch.tensor([[*before, *after[:number]]])
            logits = model(seen[:, -model.context :])[0, -1].double()
            total += float(logits.log_softmax(-1)[token])
            greedy &= int(logits.argmax()) == token
    return total, greedy


def asked(*arguments: object) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0)


def test_scores_are_those_of_one_token_at_a_time_whatever_shares_the_batch(model: CausalLM) -> None:
    pairs = [("the sky", " is"), ("", "blue"), ("a long question here", " x"), ("k", "yes"), ("trailing ", "space")]
    for batch_size in (1, 3, 8):
        found = HarnessModel(model, BYTES, batch_size).loglikelihood([asked(*pair) for pair in pairs], True)
        for (before, after), (nats, greedy) in zip(pairs, found, strict=True):
            # The harness counts the spaces that end a prompt as the answer's.
            text, start = before + after, len(before.rstrip())
            expected = score(model, list(text[:start].encode()) or [BYTES.eot_id], list(text[start:].encode()))
            assert nats == pytest.approx(expected[0], rel=1e-5)
            assert greedy is expected[1]


def test_what_greedy_decoding_says_is_known(model: CausalLM) -> None:
    sampling = SamplingConfig(max_new_tokens=1, temperature=0, stop=())
    # Of all 320 rows, as scores are: no text has the ids beyond 256, so a first byte is looked for.
    (best,) = generate_ids(model, [list(b"the sky")], sampling, vocab_size=128)[0]
    with torch.no_grad():
        model.get_output_embeddings().bias[best] = 50.0  # type: ignore[index, operator]
    ((nats, greedy),) = HarnessModel(model, BYTES, 2).loglikelihood([asked("the sky", chr(best))], True)
    assert greedy
    assert nats == pytest.approx(0, abs=1e-3)


def test_a_prompt_that_is_too_long_loses_its_beginning_and_an_answer_that_is_too_long_is_refused(
    model: CausalLM,
) -> None:
    harness = HarnessModel(model, BYTES, 2)
    ((nats, _),) = harness.loglikelihood([asked("x" * 50 + "the sky", " is")], True)
    # 33 tokens, the last of which is only predicted.
    tail = list(("x" * 50 + "the sky").encode())[-30:]
    assert nats == pytest.approx(score(model, tail, list(b" is"))[0], rel=1e-5)
    with pytest.raises(ConfigError, match="a continuation of 33 tokens is longer than the model's context of 32"):
        harness.loglikelihood([asked("a", "b" * 33)], True)


def test_a_whole_text_is_scored_once_in_windows(model: CausalLM) -> None:
    text = "the quick brown fox jumps over the lazy dog, " * 2
    ids = list(text.encode())
    (found,) = HarnessModel(model, BYTES, 4).loglikelihood_rolling([asked(text)], True)
    assert len(ids) == 90
    expected = score(model, [BYTES.eot_id], ids[:32])[0] + score(model, ids[31:32], ids[32:64])[0]
    # The last window is as long as the others, and so knows more.
    expected += score(model, ids[90 - 33 : 64], ids[64:])[0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_text_is_generated_up_to_a_stop(model: CausalLM) -> None:
    harness = HarnessModel(model, BYTES, 2)
    (whole,) = harness.generate_until([asked("the sky", {"max_gen_toks": 12})])
    sampling = SamplingConfig(max_new_tokens=12, temperature=0, stop=(BYTES.eot_id,))
    ids = generate_ids(model, [list(b"the sky")], sampling, vocab_size=BYTES.vocab_size)[0]
    assert whole == BYTES.decode(ids)
    stop = whole[3:5]
    (cut,) = harness.generate_until([asked("the sky", {"until": [stop, ""], "max_gen_toks": 12})])
    assert cut == whole[: whole.index(stop)]


def test_tasks_of_ones_own_are_run_offline(model: CausalLM, tasks: Path) -> None:
    found = run_tasks(model, BYTES, Asked(("choice", "rolling"), tasks), 4)
    right = 0
    for question, choices, gold in CHOICES:
        scores = [score(model, list(question.encode()), list(choice.encode()))[0] for choice in choices]
        right += scores.index(max(scores)) == gold
    assert found["choice"]["metrics"]["acc"] == pytest.approx(right / 3)
    assert (found["choice"]["version"], found["choice"]["documents"]) == (3, 3)
    nats = sum(score(model, [BYTES.eot_id], list(question.encode()))[0] for question, *_ in CHOICES)
    size = sum(len(question) for question, *_ in CHOICES)
    assert found["rolling"]["metrics"]["bits_per_byte"] == pytest.approx(-nats / size / 0.6931472, rel=1e-4)
