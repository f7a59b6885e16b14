"""The product as its users meet it: commands, messages, exit codes, files."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Mypt

import mypt_dist
from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.tracking.journal import read_metrics

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at steps 3 and 6."""
    out = tmp_path_factory.mktemp("runs") / "run"
    mypt_dist.train(
        {
            "name": "trained",
            "out": str(out),
            "model": {"type": "llama", "context": 16, "n_layer": 2, "n_head": 2, "n_embd": 32},
            "data": {"path": str(dataset)},
            "train": {"steps": 6, "batch_size": 8, "log_every": 1, "eval_every": 3, "save_every": 3},
            "trackers": [],
        }
    )
    return out


def test_help_needs_neither_torch_nor_mlflow() -> None:
    code = "import sys\nfrom mypt_dist.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'mlflow', 'pydantic'} & set(sys.modules), sorted(sys.modules)"
    assert (
        "prepare" not in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr
    )


@pytest.mark.parametrize(
    "command", [[], ["train"], ["data"], ["data", "prepare"], ["generate"], ["ckpt", "verify"], ["runs", "sync"]]
)
def test_every_command_explains_itself(mypt: Mypt, command: list[str]) -> None:
    code, out, _ = mypt(*command, "--help")
    assert code == 0
    assert "Usage: mypt" in out


@pytest.mark.parametrize("ranks", [None, "2"])
def test_only_one_of_several_ranks_tells_what_all_of_them_know(
    ranks: str | None, mypt: Mypt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    if ranks:
        monkeypatch.setenv("WORLD_SIZE", ranks)
    code, _, err = mypt("ckpt", "verify", str(tmp_path / "nothing"))
    assert code != 0
    assert bool(err) is (ranks is None), "a leftover RANK is no rank"


def test_training_writes_what_scripts_rely_on(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    expected = {"train/ppl", "train/bpb", "train/lr", "train/grad_norm", "throughput/tokens_per_sec", "throughput/mfu"}
    expected |= {"time/step_ms", "time/data_wait_ms", "time/compute_ms", "time/optimizer_ms", "memory/peak_gib"}
    assert expected | {"data/epoch/main", "train/tokens"} <= set(rows[0])
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]
    manifest = json.loads((trained / "checkpoints/step-00000006/manifest.json").read_text())
    keys = "format step tokens samples order_hash data seed world_size engine run tracker origin code files tensors"
    assert set(keys.split()) <= set(manifest)
    assert (manifest["step"], manifest["samples"], manifest["tokens"]) == (6, 48, 48 * 16)
    assert manifest["metrics"]["val/loss"] > 0
    assert len(manifest["lock_token"]) == 16
    assert manifest["healthy"]
    assert manifest["sources"]["main"]["samples"] == 48
    assert json.loads((trained / "events.jsonl").read_text().splitlines()[-1])["status"] == "finished"
    assert json.loads((trained / "run.json").read_text())["name"] == "trained"


def test_a_finished_run_is_left_as_it_is(mypt: Mypt, trained: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in (trained / "checkpoints").rglob("*"))
    code, out, _ = mypt("train", trained / "run.json")
    assert (code, out.splitlines()[0]) == (0, "trained to step 6 of 6, 768 tokens")
    assert sorted(path.stat().st_mtime_ns for path in (trained / "checkpoints").rglob("*")) == before


def test_checkpoints_are_listed_shown_and_verified(mypt: Mypt, trained: Path) -> None:
    code, out, _ = mypt("ckpt", "ls", trained)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["checkpoint", "step-00000003", "step-00000006"]
    assert [entry["step"] for entry in json.loads(mypt("ckpt", "ls", trained, "--json")[1])] == [3, 6]
    code, out, _ = mypt("ckpt", "show", trained)
    assert "step-00000006" in out
    assert json.loads(mypt("ckpt", "show", trained, "--json")[1])["step"] == 6
    code, out, _ = mypt("ckpt", "verify", trained)
    assert (code, "every byte is as it was written" in out) == (0, True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "extra", "manifest"])
def test_a_damaged_checkpoint_is_never_used(mypt: Mypt, trained: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    folder = run / "checkpoints/step-00000006"
    victim = next(folder.glob("weights/*"))
    content = bytearray(victim.read_bytes())
    match damage:
        case "flip":
            content[-1] ^= 1
            victim.write_bytes(content)
        case "truncate":
            victim.write_bytes(content[:-4])
        case "remove":
            victim.unlink()
        case "extra":
            (folder / "weights/more.safetensors").write_bytes(b"")
        case "manifest":
            manifest = folder / "manifest.json"
            manifest.write_text(manifest.read_text().replace('"step": 6', '"step": 7'))
    code, out, err = mypt("ckpt", "verify", folder)
    assert (code, out) == (6, "")
    assert err.startswith("mypt: ")
    assert mypt("generate", "--run", folder, "--prompt", "a")[0] == 6
    with pytest.raises(mypt_dist.errors.CheckpointError):
        mypt_dist.load_model(folder)
    assert mypt_dist.get_model_info(run)["step"] == 3, "the newest valid one serves"


def test_resuming_falls_back_to_the_newest_valid_checkpoint(mypt: Mypt, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    victim = next((run / "checkpoints/step-00000006").glob("optimizer/*"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    code, _, err = mypt("train", run / "run.json", f"out={run}")
    assert code == 0
    assert "resuming at step 3" in err
    assert [path.name for path in sorted((run / "checkpoints").glob("*"))] == [
        "step-00000003",
        "step-00000006",
        "step-00000006.corrupt",
    ]


def test_models_are_loaded_listed_and_described(trained: Path) -> None:
    model = mypt_dist.load_model(str(trained))
    assert not model.training
    with torch.no_grad():
        assert model(torch.zeros((2, 7), dtype=torch.int64)).shape == (2, 7, 320)
    info = mypt_dist.get_model_info(trained)
    assert info["parameters"] == sum(p.numel() for p in model.parameters())
    assert info["model"]["vocab_size"] == 320
    (line,) = mypt_dist.list_models(trained.parent)
    assert (line["name"], line["step"], line["path"]) == ("run", 6, str(trained))


def test_models_are_created_by_name() -> None:
    model = mypt_dist.create_model("tiny_char", vocab_size=64, n_layer=1)
    assert len(model.blocks) == 1
    with pytest.raises(mypt_dist.errors.ConfigError, match="give vocab_size"):
        mypt_dist.create_model("tiny_char")
    with pytest.raises(mypt_dist.errors.ConfigError, match=r"model\.n_layers: unknown key, did you mean 'n_layer'"):
        mypt_dist.create_model("tiny", n_layers=3)
    with pytest.raises(AttributeError):
        mypt_dist.nothing  # noqa: B018
    assert set(mypt_dist.__all__) <= set(dir(mypt_dist))


def test_generation_is_reproducible_and_streams(mypt: Mypt, trained: Path) -> None:
    command = ["generate", "--run", trained, "--prompt", "the ", "--max-new-tokens", "40", "--temperature", "1"]
    code, first, _ = mypt(*command, "--seed", "3")
    assert code == 0
    assert first.startswith("the ")
    assert mypt(*command, "--seed", "3")[1] == first
    assert mypt(*command, "--seed", "4")[1] != first
    code, batch, _ = mypt(*command, "--prompt", "dog", "--seed", "3")
    assert batch.splitlines()[0] == "--- 0"
    assert "--- 1\ndog" in batch
    assert mypt_dist.generate(trained, "the ", max_new_tokens=40, temperature=1.0, seed=3) == [first[4:-1]]


def test_a_dataset_is_inspected_and_verified(mypt: Mypt, dataset: Path, tmp_path: Path) -> None:
    code, out, _ = mypt("data", "inspect", dataset)
    assert code == 0
    assert "wizards" in out
    assert json.loads(mypt("data", "inspect", dataset, "--json")[1])
    assert mypt("data", "verify", dataset)[0] == 0
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = next(copy.glob("train/*.bin"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    code, _, err = mypt("data", "verify", copy)
    assert code == 3
    assert shard.name in err


def test_preparing_reports_what_was_left_out(mypt: Mypt, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello world " * 50)
    (tmp_path / "b.txt").write_text("another one " * 50)
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xfa")
    code, out, _ = mypt("data", "prepare", tmp_path, "--out", tmp_path / "out", "--tokenizer", "char")
    assert code == 0
    assert "1 empty" in out
    assert "1 bad utf8" in out
    code, out, _ = mypt("data", "prepare", tmp_path / "*.pdf", "--out", tmp_path / "o2", "--tokenizer", "char")
    assert (code, out) == (2, "")
    assert not (tmp_path / "o2" / "dataset.json").exists()


def small_vocabulary(mapping: dict[str, Any]) -> None:
    mapping["model"]["vocab_size"] = 100


def missing_dataset(mapping: dict[str, Any]) -> None:
    mapping["data"]["path"] = "nowhere"


def no_preset(mapping: dict[str, Any]) -> None:
    mapping["extends"] = "gpt-smal"


def odd_heads(mapping: dict[str, Any]) -> None:
    mapping["model"]["n_head"] = 5


def long_context(mapping: dict[str, Any]) -> None:
    mapping["model"]["context"] = 10**6


def unwritable(mapping: dict[str, Any]) -> None:
    mapping["out"] = "/dev/null/run"


def fp16_on_a_cpu(mapping: dict[str, Any]) -> None:
    mapping["train"]["precision"] = "fp16"


def uneven_micro_batch(mapping: dict[str, Any]) -> None:
    mapping["train"]["micro_batch"] = 3


def too_many_epochs(mapping: dict[str, Any]) -> None:
    source = {"path": mapping["data"]["path"], "max_epochs": 0.001}
    mapping["data"] = {"sources": {"web": source}}


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (small_vocabulary, "model.vocab_size is 100, the data's byte tokenizer has 274 ids"),
        (missing_dataset, "no dataset at nowhere: there is no such folder; make one with: mypt data prepare"),
        (no_preset, "'gpt-smal' is neither a file nor a preset"),
        (odd_heads, "n_head"),
        (long_context, "prepare more text or lower model.context"),
        (unwritable, "/dev/null/run"),
        (fp16_on_a_cpu, "train.precision: fp16 needs a GPU"),
        (uneven_micro_batch, "micro_batch 3 must divide batch_size 8: one of 1, 2, 4, 8"),
        (too_many_epochs, "data.sources.web.max_epochs: 0.001, but the run reads it"),
    ],
)
def test_bad_runs_get_one_message_and_leave_nothing(
    mypt: Mypt, run_mapping: dict[str, Any], tmp_path: Path, spoil: Any, expected: str
) -> None:
    spoil(run_mapping)
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(run_mapping))
    code, out, err = mypt("train", path)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_corrupted_shard_ends_with_3(mypt: Mypt, dataset: Path, run_mapping: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run_mapping, "data": {"path": str(copy)}}))
    shard = next(copy.glob("train/*.bin"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    code, _, err = mypt("train", path)
    assert code == 3
    assert "bytes, dataset.json says" in err
    shard.write_bytes(content[:64] + b"\xff" * (len(content) - 64))
    code, _, err = mypt("train", path)
    assert code == 3
    assert "is damaged" in err


def test_a_changed_setting_is_refused_or_recorded(mypt: Mypt, run_file: Path, tmp_path: Path) -> None:
    assert mypt("train", run_file, "train.stop_after=3")[0] == 0
    code, _, err = mypt("train", run_file, "train.seed=5", "optimizer.lr=0.01")
    assert code == 2
    assert "train.seed: 1337 there, 5 here" in err
    assert "optimizer.lr" not in err
    code, _, err = mypt("train", run_file, "train.seed=5", "optimizer.lr=0.01", "--allow-change", "train.seed")
    assert code == 0
    assert "changed since the checkpoint: optimizer.lr: 0.001 -> 0.01" in err
    changes = json.loads((tmp_path / "run/checkpoints/step-00000006/manifest.json").read_text())["changes"]
    assert {"train.seed", "optimizer.lr", "train.stop_after"} <= {change["key"] for change in changes}


def test_other_data_is_refused_naming_both(mypt: Mypt, run_file: Path, dataset: Path, tmp_path: Path) -> None:
    assert mypt("train", run_file, "train.stop_after=1")[0] == 0
    (tmp_path / "other.txt").write_text("entirely different words " * 500)
    (tmp_path / "more.txt").write_text("and some more of them " * 500)
    mypt("data", "prepare", tmp_path / "*.txt", "--out", tmp_path / "other", "--tokenizer", "byte")
    code, _, err = mypt("train", run_file, f"data.path={tmp_path / 'other'}")
    assert code == 2
    assert "  data: '" in err
    moved = tmp_path / "moved"
    shutil.copytree(dataset, moved)
    assert mypt("train", run_file, f"data.path={moved}", "train.stop_after=2")[0] == 0, "content counts, not the path"


def test_a_second_run_in_the_same_folder_ends_with_8(mypt: Mypt, run_file: Path, tmp_path: Path) -> None:
    from mypt_dist.checkpoint import RunLock

    lock = RunLock(tmp_path / "run")
    lock.acquire()
    try:
        code, _, err = mypt("train", run_file)
    finally:
        lock.release()
    assert code == 8
    assert f"process {os.getpid()}" in err


def test_a_diverging_run_ends_with_4_and_keeps_its_last_good_checkpoint(mypt: Mypt, run_file: Path) -> None:
    arguments = ["train.steps=9", "train.save_every=1", "train.log_every=9", "checkpoints.keep_last=20"]
    code, _, err = mypt("train", run_file, *arguments, "optimizer.lr=1e30", "optimizer.weight_decay=0")
    assert code == 4
    assert "lower optimizer.lr" in err
    status = json.loads((run_file.parent / "run/events.jsonl").read_text().splitlines()[-1])["status"]
    assert status == "failed"
    assert mypt("ckpt", "verify", run_file.parent / "run")[0] == 0


def test_presets_and_schemas_are_printed(mypt: Mypt) -> None:
    code, out, _ = mypt("presets", "ls")
    assert code == 0
    assert "llama-small" in out
    assert {"small", "750m-unified"} <= {entry["name"] for entry in json.loads(mypt("presets", "ls", "--json")[1])}
    assert json.loads(mypt("presets", "show", "small")[1])["model"]["n_embd"] == 384
    for what in ("run", "preset", "manifest", "dataset", "mixture", "sources"):
        assert json.loads(mypt("schema", what)[1])["title"] == f"mypt {what}"


def test_the_version_is_printed(mypt: Mypt) -> None:
    assert mypt("--version")[1].strip() == mypt_dist.__version__


def test_a_perplexity_without_bounds_keeps_no_run_from_saving(
    mypt: Mypt, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mypt_dist.training.evaluate._exp", lambda loss: math.inf)
    code, _, err = mypt("train", run_file)
    assert code == 0, err
    with open_checkpoint(tmp_path / "run") as checkpoint:
        assert "val/loss" in checkpoint.manifest.metrics
        assert "val/ppl" not in checkpoint.manifest.metrics


def test_the_quickstart_goes_the_whole_way(mypt: Mypt, tmp_path: Path) -> None:
    small = ["train.steps=4", "train.log_every=1", "model.n_layer=1", "model.n_embd=16", "model.n_head=1"]
    code, out, err = mypt("quickstart", "--out", tmp_path / "q", *small, "train.batch_size=2", "trackers=[]")
    assert code == 0
    for expected in ("1/3", "tokens to learn", "2/3", "3/3", "run folder:", "mypt ckpt ls", "mypt generate --run"):
        assert expected in out
    assert "step 4/4" in err
    assert mypt("ckpt", "export", tmp_path / "q/run", "--to", "hf", "--out", tmp_path / "exported")[0] == 0


def test_a_compiled_run_learns_what_an_eager_one_learns_and_resumes(mypt: Mypt, run_file: Path, tmp_path: Path) -> None:
    # In processes of its own: torch's compiler warns of itself, and here warnings are errors.
    command = [sys.executable, "-m", "mypt_dist", "train", str(run_file), f"out={tmp_path / 'compiled'}"]
    command += ["train.steps=3", "train.compile=true", "model.dropout=0.0"]
    subprocess.run([*command, "train.stop_after=2"], check=True, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    assert mypt("train", run_file, "train.steps=3", "model.dropout=0.0", f"out={tmp_path / 'eager'}")[0] == 0
    found, expected = (
        [row["train/loss"] for row in read_metrics(tmp_path / kind) if "train/loss" in row]
        for kind in ("compiled", "eager")
    )
    assert found == pytest.approx(expected, rel=1e-5)
