"""Perplexity against one token at a time; results beside checkpoints and in the journal."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mypt_dist.checkpoint import RunLock
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.data.stream import TokenStream
from mypt_dist.errors import ConfigError, LockError
from mypt_dist.models import MODELS
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.run.evaluation.perplexity import Text, predicted
from mypt_dist.run.evaluation.results import journalled, name_of, record, run_of, told_trackers
from mypt_dist.run.folders import evaluations_of
from mypt_dist.tokenizers import Tokenizer, build_tokenizer
from mypt_dist.tracking.journal import Journal, read_events, read_metrics


@pytest.fixture
def model() -> CausalLM:
    torch.manual_seed(0)
    return MODELS["llama"].tiny(vocab_size=320).build().eval()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """79 tokens to predict in windows of 32: two whole ones and a rest."""
    (tmp_path / "text.txt").write_text("Grüße aus dem Süden! " * 3 + "end")
    (tmp_path / "more.txt").write_text("second")
    prepare([str(tmp_path)], tmp_path / "data", PrepareSettings(tokenizer="byte", val_fraction=0))
    return tmp_path / "data"


def one_by_one(model: CausalLM, ids: torch.Tensor, segments: torch.Tensor | None = None) -> float:
    """The sum of what each token costs, asked of the logits of its own window alone."""
    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(ids) - 1, model.context):
            window = ids[None, begin : begin + model.context]
            own = None
            if segments is not None:
                own = segments[None, begin : begin + model.context]
            logits = model(window, segment_ids=own)[0].double().log_softmax(-1)
            for place in range(min(model.context, len(ids) - 1 - begin)):
                total -= float(logits[place, ids[begin + place + 1]])
    return total


def tokens_of(folder: Path, split: str = "train") -> torch.Tensor:
    stream = TokenStream.open(folder, DatasetManifest.read(folder), split)
    row = np.empty((1, len(stream)), np.int64)
    stream.gather([0], row)
    return torch.from_numpy(row[0])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_token_but_the_first_is_predicted_once(model: CausalLM, small: Path, batch_size: int) -> None:
    ids = tokens_of(small)
    assert (len(ids) - 1) % model.context, "the last window is a short one"
    told: list[tuple[int, int]] = []
    found = predicted(model, build_tokenizer("byte"), Text(small, "train", batch_size), lambda *done: told.append(done))
    assert found.nats == pytest.approx(one_by_one(model, ids), rel=1e-5)
    assert (found.tokens, found.windows) == (len(ids) - 1, math.ceil((len(ids) - 1) / 32))
    # An end of text stands for no bytes, and the first token is not predicted.
    assert found.bytes == int((ids[1:] < 256).sum())
    assert told[-1] == (found.tokens, found.tokens)
    metrics = found.metrics("x")
    assert metrics["x/ppl"] == pytest.approx(math.exp(found.nats / found.tokens))
    assert metrics["x/bpb"] == pytest.approx(found.nats / math.log(2) / found.bytes)


def test_documents_are_kept_apart_where_training_did(model: CausalLM, small: Path) -> None:
    ids, tokenizer = tokens_of(small), build_tokenizer("byte")
    apart = predicted(model, tokenizer, Text(small, "train", document_mask=True)).nats
    ends = ids == tokenizer.eot_id
    assert apart == pytest.approx(one_by_one(model, ids, ends.cumsum(0) - ends.long()), rel=1e-5)
    assert apart != pytest.approx(predicted(model, tokenizer, Text(small, "train")).nats, rel=1e-5)


def test_another_tokenizer_and_an_empty_split_are_refused(model: CausalLM, small: Path) -> None:
    other: Tokenizer = build_tokenizer("char", "abc")
    with pytest.raises(ConfigError, match="prepared with another tokenizer"):
        predicted(model, other, Text(small, "train"))
    with pytest.raises(ConfigError, match="val split holds 0 tokens"):
        predicted(model, build_tokenizer("byte"), Text(small, "val"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    with Journal(folder) as journal:
        journal.event("start")
        journal.log(5, {"train/loss": 1.0})
        journal.event("finish", status="finished", reason="done")
    return folder


RESULT: dict[str, Any] = {"kind": "perplexity", "metrics": {"loss": 1.5, "ppl": math.inf}}


def test_a_result_is_kept_once_and_journalled_once(run: Path) -> None:
    path = record(run, 5, "wiki-val", RESULT)
    assert path == run / "evaluations/step-00000005/wiki-val.json"
    (kept,) = evaluations_of(run)
    assert (kept["name"], kept["step"], kept["metrics"]) == ("wiki-val", 5, {"loss": 1.5, "ppl": None})
    assert journalled(run) == 1
    assert journalled(run) == 0
    (row,) = read_metrics(run)
    assert (row["eval/wiki-val/loss"], row["train/loss"]) == (1.5, 1.0)
    assert [event["path"] for event in read_events(run) if event["kind"] == "artifact"] == [kept["file"]]
    record(run, 5, "wiki-val", {**RESULT, "metrics": {"loss": 1.25}})
    assert len(evaluations_of(run)) == 1
    assert journalled(run) == 1
    assert read_metrics(run)[0]["eval/wiki-val/loss"] == 1.25


def test_while_a_run_trains_its_journal_is_left_alone_and_gets_the_result_later(run: Path) -> None:
    record(run, 5, "wiki-val", RESULT)
    before = (run / "metrics.jsonl").read_bytes()
    with RunLock(run):
        with pytest.raises(LockError):
            journalled(run)
        assert "the run is at work" in str(told_trackers(run))
    assert (run / "metrics.jsonl").read_bytes() == before
    assert told_trackers(run) is None
    assert journalled(run) == 0


def test_a_run_without_a_journal_gets_none(tmp_path: Path) -> None:
    record(tmp_path, 1, "x", RESULT)
    assert journalled(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluations"]


def test_names_become_names_of_files_and_checkpoints_lie_in_runs(tmp_path: Path) -> None:
    assert name_of("../a b?c") == "a-b-c"
    assert name_of("...") == "evaluation"
    assert len(name_of("x" * 99)) == 59
    with pytest.raises(ConfigError, match="cannot be a file"):
        record(tmp_path, 1, "../x", RESULT)
    assert run_of(tmp_path / "run/checkpoints/step-00000001") == tmp_path / "run"
    assert run_of(tmp_path / "elsewhere/step-00000001") is None


def test_what_is_no_result_is_passed_over(run: Path) -> None:
    folder = run / "evaluations/step-00000001"
    folder.mkdir(parents=True)
    for name, text in {"a": "{", "b": "[1]", "c": '{"metrics": 1}', "d": json.dumps({"metrics": {}})}.items():
        (folder / f"{name}.json").write_text(text)
    assert [one["file"] for one in evaluations_of(run)] == ["evaluations/step-00000001/d.json"]
