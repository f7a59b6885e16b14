"""``mypt eval`` as a user sees it: on a dataset and on a task, kept, listed and journalled."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Mypt

import mypt_dist
from mypt_dist.tracking.journal import read_metrics

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "run"
    mapping: dict[str, Any] = {
        "name": "one",
        "out": str(out),
        "model": {"type": "llama", "context": 16, "n_layer": 1, "n_head": 2, "n_embd": 32},
        "data": {"path": str(dataset)},
        "train": {"steps": 2, "batch_size": 4, "save_every": 1},
        "trackers": [],
    }
    mypt_dist.train(mapping)
    return out


def test_a_dataset_is_measured_kept_listed_and_journalled(mypt: Mypt, trained: Path, dataset: Path) -> None:
    sealed = (trained / "checkpoints/step-00000002/manifest.json").read_bytes()
    code, out, err = mypt("eval", trained, "--data", dataset, "--json")
    assert code == 0, err
    told = json.loads(out)
    (name, result), *others = told["results"].items()
    assert (name, others, told["step"]) == ("data-val", [], 2)
    counted = json.loads(mypt("data", "inspect", dataset, "--json")[1])["manifest"]["splits"]["val"]["tokens"]
    assert result["data"]["tokens"] == counted - 1
    assert set(result["metrics"]) == {"loss", "ppl", "bpb"}
    first = trained / "checkpoints/step-00000001"
    code, out, _ = mypt("eval", first, "--data", dataset, "--split", "train", "--name", "seen")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["seen", metric] for metric in ("loss", "ppl", "bpb")
    ]
    shown = mypt_dist.get_model_info(trained)["evaluations"]
    assert [(one["step"], one["name"]) for one in shown] == [(1, "seen"), (2, "data-val")]
    assert shown[1]["metrics"] == result["metrics"]
    assert "data-val" in mypt("models", "info", trained)[1]
    rows = {row["step"]: row for row in read_metrics(trained)}
    assert rows[2]["eval/data-val/loss"] == result["metrics"]["loss"]
    assert "eval/seen/bpb" in rows[1]
    assert (trained / "checkpoints/step-00000002/manifest.json").read_bytes() == sealed
    assert mypt("ckpt", "verify", trained)[0] == 0


def test_a_task_of_ones_own_is_run(mypt: Mypt, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "the quick", "a": " fox"}\n{"q": "a lazy", "a": " dog"}\n')
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}, "
        f"cache_dir: {tmp_path}/cache}}\ntest_split: test\noutput_type: loglikelihood\ndoc_to_text: '{{{{q}}}}'\n"
        "doc_to_target: '{{a}}'\ntarget_delimiter: ''\nmetric_list: [{metric: acc}, {metric: perplexity}]\n"
    )
    arguments = ("--tasks", "mine", "--include", tmp_path, "--limit", "1", "--json")
    code, out, err = mypt("eval", trained, *arguments)
    assert code == 0, err
    result = json.loads(out)["results"]["mine"]
    assert result["metrics"]["perplexity"] > 1
    assert (result["kind"], result["documents"], result["limit"]) == ("lm-eval", 1, 1)
    assert (trained / "evaluations/step-00000002/mine.json").is_file()


def test_mistakes_end_with_2_and_a_word(
    mypt: Mypt, trained: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("text " * 20)
    mypt("data", "prepare", tmp_path / "a.txt", "--tokenizer", "char", "--out", tmp_path / "char")
    cases: dict[tuple[Any, ...], tuple[int, str]] = {
        (trained,): (2, "--data DIR or --tasks NAME"),
        (trained, "--data", dataset, "--tasks", "x"): (2, "one of both"),
        (trained, "--data", tmp_path / "char"): (2, "prepared with another tokenizer"),
        (trained, "--data", tmp_path): (2, "no dataset at"),
        (trained, "--data", dataset, "--device", "tpu"): (2, "no such device"),
        (tmp_path, "--data", dataset): (6, "no checkpoint"),
    }
    for arguments, (expected, said) in cases.items():
        code, _, err = mypt("eval", *arguments)
        assert (code, said in err, "Traceback" in err) == (expected, True, False), err
    monkeypatch.delitem(sys.modules, "mypt_dist.run.evaluation.harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    code, _, err = mypt("eval", trained, "--tasks", "mine")
    assert (code, "pip install 'mypt-dist[eval]'" in err) == (2, True)
