"""From the web to a trained model: mypt data fetch, mypt data prepare, mypt train."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import Mypt
from faulty_server import serving
from hostile_archives import zipped

from mypt_dist.config import read_json
from mypt_dist.data.filters.language import FUNCTION_WORDS

pytestmark = pytest.mark.e2e
WORDS = read_json(FUNCTION_WORDS)


def texts(language: str, count: int) -> list[str]:
    chance, words = random.Random(language), WORDS[language].split()
    return [" ".join(chance.choices(words, k=60)) for _ in range(count)]


def test_two_languages_from_a_server_are_trained_on_in_their_shares(
    tmp_path: Path, mypt: Mypt, run_mapping: dict[str, Any]
) -> None:
    german, english = texts("de", 60), texts("en", 60)
    rows = [*english, *german[:3], " ".join(english[0].split()[::-1]), english[1]]
    archive = zipped([("corpus/de.txt", "\n".join(german).encode()), ("corpus/notes.md", b"# not asked for")])
    lines = "".join(json.dumps({"article": {"body": row}}) + "\n" for row in rows).encode()
    with serving() as server:
        server.behaviours["/de.zip"] = lambda request, _: request.part(archive, '"v1"')
        server.behaviours["/en.jsonl"] = lambda request, _: request.part(lines, '"v1"')
        sources = {
            "de": {
                "urls": [["de.zip", server.url("/de.zip")]],
                "final_pattern": "*.txt",
                "format": {"type": "lines"},
                "weight": 0.7,
            },
            "en": {
                "urls": [["en.jsonl", server.url("/en.jsonl")]],
                "format": {"type": "jsonl", "field": "article.body"},
                "filters": [{"type": "language", "keep": ["en"]}, {"type": "exact_duplicates"}],
                "weight": 0.3,
            },
        }
        file = tmp_path / "sources.json"
        file.write_text(json.dumps({"sources": sources}))
        assert mypt("data", "fetch", file, "--out", tmp_path / "web", "--allow-host", server.host)[0] == 0
    prepare = ["data", "prepare", file, "--out", tmp_path / "data", "--fetched", tmp_path / "web"]
    prepare += ["--tokenizer", "byte", "--val-fraction", "0.1", "--rejects", tmp_path / "rejects"]
    code, out, _ = mypt(*prepare)
    assert code == 0
    assert out.splitlines()[3].endswith("1 duplicates, 3 language")
    assert (tmp_path / "rejects/en.jsonl").read_text().count("in de (") == 3
    counts = {key: json.loads(mypt(*prepare, "--json")[1])[key]["counts"]["documents"] for key in ("de", "en")}
    assert counts == {"de": 60, "en": 61}

    run = tmp_path / "run.json"
    train = {**run_mapping["train"], "steps": 30, "batch_size": 1, "eval_every": 30, "save_every": 30}
    run.write_text(json.dumps({**run_mapping, "data": {"path": str(tmp_path / "data")}, "train": train}))
    assert mypt("train", run)[0] == 0
    rows = list(map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines()))
    german = {row["step"]: row["data/tokens/de"] / 16 for row in rows if "data/tokens/de" in row}
    assert len(german) == 30
    for step, windows in german.items():
        assert abs(windows - 0.7 * step) < 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s.json", "more.txt"], "a sources file is prepared alone"),
        (["s.json", "--text-field", "body"], "--text-field is for text: a sources file says"),
        (["s.json", "--only", "b"], "has no source 'b'"),
        (["s.json", "--weight", "a"], "--weight is written KEY:W"),
        (["s.json", "--tokenizer", "char"], "a mixture needs one tokenizer"),
        (["a.txt", "--rejects", "r"], "--fetched, --only, --weight and --rejects are for a sources file"),
        (["de-en"], "is downloaded or unpacked: say where that was done with --fetched DIR (mypt data fetch"),
        (["absent.json"], "'absent.json' is neither a file nor a shipped sources file"),
    ],
)
def test_a_mistake_is_one_clear_message(
    tmp_path: Path, mypt: Mypt, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "s.json").write_text(json.dumps({"sources": {"a": {"paths": "a.txt"}}}))
    monkeypatch.chdir(tmp_path)
    code, _, error = mypt("data", "prepare", *arguments, "--out", "out")
    assert code == 2
    assert error.startswith("mypt: ")
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
