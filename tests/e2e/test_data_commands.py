"""Commands for datasets: what they print, how they end, and what a run says of data that has grown."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Mypt

pytestmark = pytest.mark.e2e


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    folder = tmp_path / "nanogpt"
    folder.mkdir()
    for name, count in (("train", 4000), ("val", 400)):
        np.resize(np.frombuffer(b"some words and more words. ", np.uint8), count).astype("<u2").tofile(
            folder / f"{name}.bin"
        )
    return folder


def test_a_dataset_of_another_program_is_converted_and_looked_at(mypt: Mypt, nanogpt: Path, tmp_path: Path) -> None:
    code, _, err = mypt("data", "convert", nanogpt, "--out", tmp_path / "ours")
    assert code == 2
    assert "--tokenizer gpt2" in err
    code, out, _ = mypt("data", "convert", nanogpt, "--out", tmp_path / "ours", "--tokenizer", "byte")
    assert code == 0
    assert "4,000" in out
    assert mypt("data", "verify", tmp_path / "ours")[0] == 0
    code, out, _ = mypt("data", "stats", tmp_path / "ours")
    assert code == 0
    assert "ids stand in it" in out
    assert "' '" in out
    frequent = json.loads(mypt("data", "stats", tmp_path / "ours", "--json")[1])["frequent"]
    assert frequent[0]["text"] == " "
    code, _, err = mypt("data", "convert", nanogpt, "--out", tmp_path / "ours", "--tokenizer", "byte")
    assert code == 2
    assert "--overwrite" in err
    assert "Traceback" not in err


def test_lengths_are_drawn(mypt: Mypt, dataset: Path) -> None:
    code, out, _ = mypt("data", "stats", dataset)
    assert code == 0
    assert "train: tokens a document" in out
    assert "█" * 50 in out, "the longest bar"
    assert "1,024 to 2,047" in out


def test_a_run_reads_data_in_place_and_its_checkpoint_names_where_it_came_from(
    mypt: Mypt, nanogpt: Path, run_file: Path, tmp_path: Path
) -> None:
    code, _, err = mypt("train", run_file, f"data.path={nanogpt}")
    assert code == 2
    assert f"mypt data adopt {nanogpt}" in err
    code, out, _ = mypt("data", "adopt", nanogpt, "--tokenizer", "byte")
    assert code == 0
    assert "nanogpt read in place" in out
    assert json.loads(mypt("data", "adopt", nanogpt, "--tokenizer", "byte", "--json")[1])["in_place"] == "nanogpt"
    assert mypt("train", run_file, f"data.path={nanogpt}", "train.stop_after=1", "train.save_every=1")[0] == 0
    manifest = json.loads((tmp_path / "run/checkpoints/step-00000001/manifest.json").read_text())
    lineage = manifest["data"]["sources"]["main"]["lineage"]
    assert lineage["made_by"] == "adopt"
    assert len(lineage["inputs"]) == 1


def test_a_run_goes_on_with_the_version_it_began_with(
    mypt: Mypt, run_mapping: dict[str, Any], dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    run_file = tmp_path / "run.json"
    run_file.write_text(json.dumps({**run_mapping, "data": {"path": str(data)}}))
    assert mypt("train", run_file, "train.stop_after=1")[0] == 0
    (tmp_path / "more.txt").write_text("some more text " * 40)
    code, out, _ = mypt("data", "append", data, tmp_path / "more.txt")
    assert code == 0
    kept = next((data / "versions").iterdir())
    assert f"what it was before is kept: {kept}" in out
    code, _, err = mypt("train", run_file, "train.stop_after=2")
    assert code == 2
    assert f"the data of then is kept: data.path={kept}" in err
    assert mypt("train", run_file, f"data.path={kept}", "train.stop_after=2")[0] == 0
    assert mypt("train", run_file, "train.stop_after=3", "--allow-change", "data")[0] == 0

    code, out, _ = mypt("data", "lineage", data)
    assert code == 0
    assert "append by python" in out
    assert f"input: {tmp_path / 'more.txt'}" in out
    assert f"versions/{kept.name}  {kept.name}  prepare" in out
    assert json.loads(mypt("data", "lineage", data, "--json")[1])["parents"][0]["made_by"] == "prepare"


def test_datasets_are_split_merged_and_compared(mypt: Mypt, dataset: Path, tmp_path: Path) -> None:
    assert mypt("data", "split", dataset, "--out", tmp_path / "none")[0] == 2
    code, out, _ = mypt("data", "split", dataset, "--out", tmp_path / "parts", "--parts", "2")
    assert code == 0
    assert out.count("train") >= 2
    parts = [tmp_path / "parts/part-000", tmp_path / "parts/part-001"]
    assert mypt("data", "merge", *parts, "--out", tmp_path / "again")[0] == 0
    code, out, _ = mypt("data", "diff", dataset, tmp_path / "again")
    assert code == 0
    assert "every token is the same" in out, "shards are of other sizes"
    assert mypt("data", "split", dataset, "--out", tmp_path / "held", "--val-fraction", "0.5", "--json")[0] == 0
    code, out, _ = mypt("data", "diff", dataset, tmp_path / "held")
    assert "train: the first token that differs is number" in out
    assert json.loads(mypt("data", "diff", dataset, dataset, "--json")[1])["equal"]
    assert "the same content" in mypt("data", "diff", dataset, dataset)[1]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["convert", "adopt", "append", "merge", "split", "stats", "diff", "lineage"])
def test_a_mistake_ends_with_2_and_one_message(command: str, mypt: Mypt, tmp_path: Path) -> None:
    needs = {"append": ["x.txt"], "diff": [tmp_path], "merge": [tmp_path, "--out", "o"], "stats": [], "lineage": []}
    more = needs.get(command, ["--out", "o", "--parts", "2"] if command == "split" else [])
    more = ["--out", "o"] if command == "convert" else more
    code, out, err = mypt("data", command, tmp_path / "absent", *more)
    assert code == 2
    assert not out
    assert len(err.strip().splitlines()) <= 9
    assert "Traceback" not in err


def test_conversations_are_prepared_shown_and_given_back(mypt: Mypt, tmp_path: Path) -> None:
    lines = tmp_path / "chat.jsonl"
    talk = {"messages": [{"role": "user", "content": "<b>\x1b[31m?"}, {"role": "assistant", "content": "<|user|> yes"}]}
    lines.write_text(json.dumps(talk) + "\n{}\n")
    command = ("data", "prepare-chat", lines, "--out", tmp_path / "chat", "--tokenizer", "byte", "--context", "64")
    code, out, err = mypt(*command)
    assert (code, out) == (3, "")
    assert f"{lines}:2: it has neither 'messages' nor 'conversations'" in err
    assert "Traceback" not in err
    assert not (tmp_path / "chat").exists()
    rest = ("--val-fraction", "0", "--weights", "close=0.5", "--quarantine", tmp_path / "bad.jsonl")
    code, out, _ = mypt(*command, *rest)
    assert code == 0
    assert "1 lines bad; see" in out
    assert "rows of 65 tokens: 1 train" in out
    code, out, _ = mypt("data", "inspect", tmp_path / "chat", "--masks", "2")
    assert code == 0
    assert "«<|user|> yes»«0.5: <|/assistant|>»«<|endofturn|>»" in out
    assert "\x1b[31m" not in out, "what a conversation says is never obeyed by the terminal"
    page = tmp_path / "masks.html"
    assert mypt("data", "inspect", tmp_path / "chat", "--html", page)[0] == 0
    html = page.read_text()
    assert '<span class="l">&lt;|user|&gt; yes</span><span class="l c" title="weight 0.5">&lt;|/assistant|&gt;' in html
    assert "<b>" not in html
    assert mypt("data", "verify", tmp_path / "chat")[0] == 0
    assert mypt("data", "export-chat", tmp_path / "chat", "--out", tmp_path / "back.jsonl")[0] == 0
    assert json.loads((tmp_path / "back.jsonl").read_text()) == talk
    code, _, err = mypt(*command, "--weights", "close")
    assert (code, "KIND=NUMBER" in err) == (2, True)
    code, _, err = mypt("data", "merge", tmp_path / "chat", tmp_path / "chat", "--out", tmp_path / "merged")
    assert (code, "which stay whole" in err) == (2, True)


def test_masks_are_shown_where_there_are_some(mypt: Mypt, dataset: Path) -> None:
    code, _, err = mypt("data", "inspect", dataset, "--masks", "1")
    assert (code, "has no mask: every token of it is learned" in err) == (2, True)
