"""A base model is taught a format, answers held-out questions in it, is talked to, and learns from what was said."""

import io
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Mypt
from finished_runs import losses, manifest

from mypt_dist.chat import Renderer, read_conversation
from mypt_dist.chat.answer import Answer, read_answer
from mypt_dist.chat.conversation import Conversation
from mypt_dist.data.chat import ChatSettings, prepare_chat
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.generation import SamplingConfig, stream_ids
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig
from mypt_dist.run.models import load_for_generation
from mypt_dist.tracking.journal import read_events, read_metrics

pytestmark = pytest.mark.e2e

ANIMALS = "ant bear cat dog eel fox goat hen ibis jay kid lamb mole newt owl pig ram seal toad wren yak".split()  # noqa: SIM905
FORMAT = re.compile(r"\[[a-z]+\]")
BASE = {"type": "llama", "context": 64, "n_layer": 2, "n_head": 2, "n_embd": 48}


def conversations(seed: int, count: int) -> list[dict[str, Any]]:
    """Questions about a document; answers with a thought, a word in brackets, and a source."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        first, second = draw.sample(ANIMALS, 2)
        answer = {"role": "assistant", "think": first, "content": f"[{second}]", "cite": "doc"}
        made.append({"context": f"{first} {second}", "messages": [{"role": "user", "content": "which?"}, answer]})
    return made


def write_lines(path: Path, values: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def is_in_format(answer: Answer) -> bool:
    kinds = [part.kind for part in answer.turn.parts]
    return answer.turn.learned and kinds == ["think", "text", "cite"] and bool(FORMAT.fullmatch(answer.text))


def rate(run: Path, values: Sequence[dict[str, Any]]) -> float:
    """Share of the likeliest answers that are in the format."""
    model, tokenizer = load_for_generation(run)
    renderer = Renderer(tokenizer)
    asked = [Conversation(read_conversation(value)[1].conversation.turns[:-1]) for value in values]
    prompts = [renderer.prompt(conversation).tolist() for conversation in asked]
    rows: list[list[int]] = [[] for _ in prompts]
    sampling = SamplingConfig(temperature=0, max_new_tokens=24, stop=())
    for new in stream_ids(model, prompts, sampling, vocab_size=tokenizer.vocab_size):
        for row, token in new.items():
            rows[row].append(token)
    return float(np.mean([is_in_format(read_answer(ids, renderer)) for ids in rows]))


def run_of(folder: Path, name: str, **sections: Any) -> Path:
    mapping = {"name": name, "out": str(folder / name), "trackers": [], "checkpoints": {"background": False}}
    return train(RunConfig.of({**mapping, **sections}, name)).folder


def schedule(steps: int, **settings: Any) -> dict[str, Any]:
    often = {"log_every": 20, "eval_every": steps, "save_every": steps, "eval_windows": 8}
    return {"steps": steps, "batch_size": 8, **often, **settings}


@pytest.fixture(scope="module")
def base(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    optimizer = {"type": "adamw", "lr": 3e-3}
    return run_of(folder, "base", model=BASE, data={"path": str(dataset)}, optimizer=optimizer, train=schedule(40))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("held") / "held.jsonl", conversations(2, 20))


@pytest.fixture(scope="module")
def chats(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 conversations in packed rows."""
    folder = tmp_path_factory.mktemp("chats")
    lines = write_lines(folder / "lines.jsonl", conversations(1, 200))
    prepare_chat([str(lines)], folder / "data", ChatSettings(context=96, tokenizer=str(dataset), val_fraction=0.1))
    return folder / "data"


@pytest.fixture(scope="module")
def taught(base: Path, chats: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model after these, in a longer context."""
    folder = tmp_path_factory.mktemp("taught")
    return run_of(
        folder,
        "taught",
        start_from={"path": str(base)},
        model={"context": 96, "dropout": 0.0},
        data={"path": str(chats)},
        optimizer={"type": "adamw", "lr": 5e-3},
        train=schedule(150),
        evaluation={"answers": {"path": str(held_out), "count": 10, "max_new_tokens": 24}},
    )


def test_a_model_answers_held_out_questions_in_the_format_it_was_taught(
    base: Path, taught: Path, held_out: Path
) -> None:
    values = [json.loads(line) for line in held_out.read_text().splitlines()]
    before, after = rate(base, values), rate(taught, values)
    print(f"answers in the format: {before:.0%} before, {after:.0%} after")
    assert before == 0
    assert after >= 0.9
    measured = [row for row in read_metrics(taught) if "val/format" in row][-1]
    assert measured["val/format"] >= 0.9
    # Which of the animals comes next is a matter of copying; all else of the answer is always the same.
    assert measured["val/accuracy"] > 0.6
    model = manifest(taught, 150).run["model"]
    assert isinstance(model, dict)
    assert (model["context"], model["rope_scale"]) == (96, 1.5)


def test_what_was_answered_is_kept_as_a_table_for_every_evaluation(taught: Path) -> None:
    (event,) = [event for event in read_events(taught) if event["kind"] == "table"]
    table = json.loads((taught / str(event["path"])).read_text())
    assert table["columns"] == ["question", "expected", "answer", "complete", "well_formed"]
    assert len(table["data"]) == 10
    question, expected, answer, complete, well_formed = table["data"][0]
    assert question == "which?"
    assert re.fullmatch(r"[a-z]+\[[a-z]+\]doc", expected)
    assert re.fullmatch(r"\[think: [a-z]+\]\[[a-z]+\]\[cite: [a-z]+\]", answer)
    assert complete
    assert well_formed


def test_a_logged_chat_with_a_document_is_trained_on(
    taught: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mypt: Mypt
) -> None:
    (tmp_path / "doc.txt").write_text("fox owl\n")
    typed = [f"/context {tmp_path / 'doc.txt'}", "which?", "/reset", "call me at 0171-12345: which?", "/correct [owl]"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
    greedy = ("--preset", "deterministic", "--max-new-tokens", "24")
    code, shown, told = mypt("chat", taught, *greedy, "--log", tmp_path / "log", "--redact", "[0-9-]{6,}")
    assert code == 0, told
    assert "which?" not in shown, "nobody types here, so nothing is asked or repeated"
    assert re.search(r"<\|think\|>[a-z]+<\|/think\|>\[[a-z]+\]<\|cite\|>doc", shown)

    (log,) = (tmp_path / "log").iterdir()
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    question, answer = first["messages"]
    assert question == {"role": "user", "content": "which?", "context": "fox owl"}
    assert answer.keys() == {"role", "content", "think", "cite"}
    assert [message["content"] for message in second["messages"]] == ["call me at [redacted]: which?", "[owl]"]

    settings = ("--context", "96", "--tokenizer", dataset, "--val-fraction", "0")
    code, _, told = mypt("data", "prepare-chat", log, "--out", tmp_path / "data", *settings)
    assert code == 0, told
    assert DatasetManifest.read(tmp_path / "data").splits.train.documents == 2
    run = run_of(
        tmp_path,
        "again",
        start_from={"path": str(taught), "optimizer": "kept"},
        data={"path": str(tmp_path / "data")},
        optimizer={"type": "adamw", "lr": 1e-3},
        train=schedule(6, log_every=1),
    )
    found = losses(run)
    assert found[-1] < found[0], "what was said is learned"
    origin = manifest(run, 6).origin
    assert origin is not None
    assert (origin["run"], origin["origin"]["run"]) == ("taught", "base")  # type: ignore[index,call-overload]


def test_text_is_replayed_among_conversations_by_weight(
    taught: Path, chats: Path, dataset: Path, tmp_path: Path
) -> None:
    sources = {"chats": {"path": str(chats), "weight": 3}, "text": {"path": str(dataset), "weight": 1}}
    run = run_of(
        tmp_path,
        "replay",
        start_from={"path": str(taught)},
        data={"sources": sources},
        optimizer={"type": "adamw", "lr": 1e-3},
        train=schedule(4, log_every=4),
        evaluation={"by_source": True},
    )
    positions = {name: entry["samples"] for name, entry in manifest(run, 4).sources.items()}  # type: ignore[index,call-overload]
    assert positions == {"chats": 24, "text": 8}
    (measured,) = [row for row in read_metrics(run) if "val/text/loss" in row]
    # What is measured of conversations is what is learned of them.
    assert measured["val/chats/loss"] < measured["val/text/loss"]
