"""``mypt tokenizer`` as a user sees it, and what becomes of the tokenizer afterwards."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from conftest import Mypt

pytestmark = pytest.mark.e2e


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(f"the quick brown fox number {number} jumps over the lazy dog\n" * 4)
    return folder


def test_a_learned_tokenizer_goes_into_datasets_checkpoints_and_generation(
    mypt: Mypt, text: Path, tmp_path: Path, run_mapping: dict[str, Any]
) -> None:
    out, dataset = tmp_path / "bpe.json", tmp_path / "data"
    code, said, err = mypt("tokenizer", "train", text, "--vocab-size", "320", "--out", out)
    assert code == 0, err
    assert "bpe, 320 ids" in said
    learned = json.loads(out.read_text())
    told = json.loads(mypt("data", "prepare", text, "--tokenizer", out, "--out", dataset, "--json")[1])
    assert told["tokenizer"]["state"] == learned
    again = json.loads(mypt("data", "prepare", text, "--tokenizer", dataset, "--out", tmp_path / "two", "--json")[1])
    assert again["fingerprint"] == told["fingerprint"]
    assert mypt("data", "verify", dataset)[0] == 0
    run = tmp_path / "run.json"
    train = {**run_mapping["train"], "steps": 1}
    run.write_text(json.dumps({**run_mapping, "data": {"path": str(dataset)}, "train": train}))
    out.unlink()
    assert mypt("train", run)[0] == 0
    (carried,) = (tmp_path / "run").glob("checkpoints/*/tokenizer.json")
    assert json.loads(carried.read_text()) == learned
    code, said, _ = mypt("generate", "--run", tmp_path / "run", "--prompt", "the quick", "--max-new-tokens", "2")
    assert code == 0
    assert said.startswith("the quick")


def test_a_comparison_is_told_as_a_table_a_picture_and_a_page(mypt: Mypt, text: Path, tmp_path: Path) -> None:
    drawn, page = tmp_path / "a.svg", tmp_path / "a.html"
    code, out, _ = mypt("tokenizer", "compare", text, "--vocab-size", "300", "--svg", drawn, "--html", page)
    assert code == 0
    names = [line.split("  ")[0] for line in out.splitlines() if "█" in line]
    assert [name.strip() for name in names] == ["gpt2", "byte", "char", "bpe 300"]
    root = ET.fromstring(drawn.read_text())
    assert len([element for element in root.iter() if element.tag.endswith("rect")]) == 1 + 2 * 4
    assert "<td>bpe 300</td>" in page.read_text()
    assert "<svg" in page.read_text()
    assert "http" not in page.read_text().replace("http://www.w3.org/2000/svg", "")


def test_a_comparison_in_json_has_every_figure(mypt: Mypt, text: Path, dataset: Path) -> None:
    arguments = ("--vocab-size", "300", "--tokenizer", dataset, "--width", "64", "--context", "100", "--json")
    told = json.loads(mypt("tokenizer", "compare", text, *arguments)[1])
    rows = {row["tokenizer"]: row for row in told["tokenizers"]}
    assert list(rows) == ["gpt2", "byte", "char", "bpe 300", str(dataset)]
    assert rows["byte"]["tokens"] == rows[str(dataset)]["tokens"] > rows["bpe 300"]["tokens"]
    assert rows["byte"]["context_characters"] == 100
    assert rows["gpt2"]["embedding_parameters"] == 50_304 * 64


def test_mistakes_end_with_2_and_leave_nothing(mypt: Mypt, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "bpe.json"
    cases = {
        ("tokenizer", "train", text, "--vocab-size", "10", "--out", out): "cannot be learned: between 274",
        ("tokenizer", "train", tmp_path / "none.txt", "--out", out): "no such file or folder",
        ("tokenizer", "train", text, "--out", tmp_path): "is a folder: give a file",
        ("tokenizer", "compare", text, "--tokenizer", out): "no such tokenizer",
        ("data", "prepare", text, "--tokenizer", out, "--out", tmp_path / "d"): "no such tokenizer",
    }
    for arguments, said in cases.items():
        code, _, err = mypt(*arguments)
        assert (code, said in err, "Traceback" in err) == (2, True, False), err
    assert not out.exists()
    assert not (tmp_path / "d").exists()
    assert mypt("tokenizer", "train", text, "--vocab-size", "300", "--out", out)[0] == 0
    code, _, err = mypt("tokenizer", "train", text, "--vocab-size", "300", "--out", out)
    assert (code, "--overwrite replaces it" in err) == (2, True)
