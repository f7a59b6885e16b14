"""Mixtures and coverage as their users meet them: commands, messages, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Mypt

pytestmark = pytest.mark.e2e


@pytest.fixture
def run_file(run_mapping: dict[str, Any], mixture: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run_mapping, "data": {"path": str(mixture)}}))
    return path


def test_coverage_is_told_before_a_run_and_counts_what_is_done(mypt: Mypt, run_file: Path) -> None:
    code, out, _ = mypt("data", "coverage", "--run", run_file)
    assert code == 0
    assert out.startswith("6 steps of 128 tokens\n")
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["source", "code", "de", "en", "all"]
    assert "very low" in out
    assert "steps for 2 times: " in out.splitlines()[-1]
    wanted = json.loads(mypt("data", "coverage", "--run", run_file, "--json")[1])
    assert mypt("train", run_file, "train.stop_after=3")[0] == 0
    found = json.loads(mypt("data", "coverage", "--run", run_file, "--json")[1])
    assert found == {**wanted, "steps_done": 3}
    assert found["read"] == 6 * 128
    assert found["ratio"] == found["read"] / found["tokens"]
    steps = found["steps_for"]["2"]
    longer = json.loads(mypt("data", "coverage", "--run", run_file, "--set", f"train.steps={steps}", "--json")[1])
    assert (round(longer["ratio"], 2), longer["verdict"]) == (2.0, "good")


def test_coverage_of_another_dataset(mypt: Mypt, run_file: Path, dataset: Path, tmp_path: Path) -> None:
    found = json.loads(mypt("data", "coverage", dataset, "--run", run_file, "--json")[1])
    assert list(found["sources"]) == ["main"]
    code, _, err = mypt("data", "coverage", tmp_path / "none", "--run", run_file)
    assert (code, "no dataset at" in err) == (2, True)
    code, _, err = mypt("data", "coverage", "--run", run_file, "--set", "model.context=1000000")
    assert (code, "one window needs model.context + 1" in err) == (2, True)


def test_a_run_that_reads_too_little_is_refused_if_asked(mypt: Mypt, run_file: Path, tmp_path: Path) -> None:
    code, out, err = mypt("train", run_file, "data.coverage.below=refuse")
    assert (code, out) == (2, "")
    assert "very low, below data.coverage.limit 0.5; 2 times in" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_checkpoint_shows_what_its_sources_gave(mypt: Mypt, run_file: Path, tmp_path: Path) -> None:
    assert mypt("train", run_file, 'data.phases=[{"until_step": 1, "weights": {"de": 1}}]', "train.steps=2")[0] == 0
    out = mypt("ckpt", "show", tmp_path / "run")[1]
    assert '{"first": 8, "quota": {"code": 2, "de": 5, "en": 3}}' in out
    assert '"tokens": ' in out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.weights.fr=1", "weights names 'fr', the sources are code, de, en"),
        ('data.phases=[{"until_step": 2, "weights": {}}]', "data.phases.0.weights: "),
        ('data.phases=[{"weights": {"de": 1}}]', "data.phases.0: needs either until_step or until_tokens"),
        (
            'evaluation.sets={"loss": {"path": "x"}}',
            "sets.loss: loss, ppl, bpb, accuracy, format are names of metrics",
        ),
        ('evaluation.sets={"odd": {"path": "nowhere"}}', "no dataset at nowhere"),
    ],
)
def test_what_makes_no_sense_gets_one_message(mypt: Mypt, run_file: Path, setting: str, message: str) -> None:
    code, out, err = mypt("train", run_file, setting)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
