"""``mypt models`` as a user sees it, over a folder of runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Mypt

import mypt_dist
from mypt_dist.checkpoint import RunLock
from mypt_dist.errors import LockError
from mypt_dist.run import folders
from mypt_dist.tracking.journal import Journal

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    out = tmp_path_factory.mktemp("trained") / "runs" / "one"
    mapping: dict[str, Any] = {
        "name": "one",
        "out": str(out),
        "model": {"type": "gpt", "context": 16, "n_layer": 1, "n_head": 2, "n_embd": 32},
        "data": {"path": str(dataset)},
        "train": {"steps": 2, "batch_size": 4, "save_every": 1, "eval_every": 1, "eval_windows": 4},
        "trackers": [],
    }
    mypt_dist.train(mapping)
    return out


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A folder with the run twice, one of them deeper."""
    shutil.copytree(trained, tmp_path / "runs/one")
    shutil.copytree(trained, tmp_path / "runs/deep/two")
    return tmp_path / "runs"


def test_every_run_has_a_line_and_tags_choose_among_them(mypt: Mypt, runs: Path) -> None:
    assert mypt("models", "tag", runs / "one", "owner=me", "stage=best of all")[0] == 0
    lines = {line["name"]: line for line in json.loads(mypt("models", "ls", runs, "--json")[1])}
    assert list(lines) == ["two", "one"]
    assert (lines["one"]["step"], lines["one"]["tokens"], lines["one"]["state"]) == (2, 128, "finished")
    assert lines["one"]["parameters"] == mypt_dist.get_model_info(runs / "one")["parameters"]
    assert lines["one"]["tags"] == {"owner": "me", "stage": "best of all"}
    assert lines["one"]["metrics"]["val/loss"] > 0
    out = mypt("models", "ls", runs)[1]
    assert "stage=best of all" in out
    assert "finished" in out
    for wanted, names in {"owner": ["one"], "owner=me": ["one"], "owner=you": [], "other": []}.items():
        found = json.loads(mypt("models", "ls", runs, "--tag", wanted, "--json")[1])
        assert [line["name"] for line in found] == names


def test_one_model_is_shown_by_name_by_folder_and_by_checkpoint(mypt: Mypt, runs: Path) -> None:
    for name, step in {"one": 2, runs / "one": 2, runs / "one/checkpoints/step-00000001": 1}.items():
        told = json.loads(mypt("models", "info", name, "--runs", runs, "--json")[1])
        assert (told["step"], told["model"]["n_embd"], told["state"], told["evaluations"]) == (step, 32, "finished", [])
    out = mypt("models", "info", "one", "--runs", runs)[1]
    assert "n_embd 32" in out
    assert "val/loss" in out


def test_a_tag_is_taken_away_by_an_empty_value_and_bad_ones_are_refused(mypt: Mypt, runs: Path) -> None:
    run = runs / "one"
    assert json.loads(mypt("models", "tag", run, "a=1", "b=x=y", "--json")[1]) == {"a": "1", "b": "x=y"}
    assert json.loads(mypt("models", "tag", run, "a=", "--json")[1]) == {"b": "x=y"}
    assert json.loads(mypt("models", "tag", run, "--json")[1]) == {"b": "x=y"}
    for bad in ("novalue", "=1", "new\nline=1", f"long={'x' * 5001}"):
        assert mypt("models", "tag", run, bad)[0] == 2
    assert folders.tags_of(run) == {"b": "x=y"}
    (run / "tags.json").write_text("[]")
    code, _, err = mypt("models", "ls", runs)
    assert (code, "must hold an object of texts" in err) == (2, True)


def test_nothing_is_removed_without_a_word(mypt: Mypt, runs: Path) -> None:
    code, _, err = mypt("models", "rm", "one", "--runs", runs)
    assert (code, "nothing was removed: --yes would remove" in err) == (2, True)
    code, _, err = mypt("models", "rm", "one", "none", "--runs", runs, "--yes")
    assert (code, "none is no run" in err) == (2, True)
    assert (runs / "one/checkpoints").is_dir()
    code, out, _ = mypt("models", "rm", "one", "--runs", runs, "--yes")
    assert (code, out.startswith(f"removed {runs / 'one'}")) == (0, True)
    assert sorted(path.name for path in runs.iterdir()) == ["deep"]


def test_a_run_that_trains_is_not_removed_and_is_listed_so(mypt: Mypt, runs: Path) -> None:
    with RunLock(runs / "one"), Journal(runs / "one"):
        code, _, err = mypt("models", "rm", runs / "one", "--yes")
        assert (code, "is in use by" in err) == (8, True)
        assert folders.state_of(runs / "one") == "training"
    assert (runs / "one/checkpoints/step-00000002/manifest.json").is_file()
    with Journal(runs / "one") as journal:
        journal.event("start")
    assert folders.state_of(runs / "one") == "killed"


def test_what_a_kill_leaves_of_a_removal_is_no_run(mypt: Mypt, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.remove(runs / "one")
    assert [line["name"] for line in json.loads(mypt("models", "ls", runs, "--json")[1])] == ["two"]
    assert not (runs / "one").exists()


def test_a_folder_that_is_none_and_a_run_that_is_none_are_named(mypt: Mypt, tmp_path: Path) -> None:
    assert mypt("models", "ls", tmp_path / "absent")[0] == 2
    assert "is no run" in mypt("models", "info", tmp_path)[2]
    assert mypt("models", "ls", tmp_path)[:2] == (0, "run  parameters  step  tokens  val/loss  MB  state  tags\n")
    with pytest.raises(LockError), RunLock(tmp_path), RunLock(tmp_path):
        pass
