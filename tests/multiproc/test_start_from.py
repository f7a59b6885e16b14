"""Every engine starts from a checkpoint of one process: the same weights, rows for new tokens included, and losses."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import ENGINES
from finished_runs import losses
from given_models import give_model

from mypt_dist.checkpoint import Checkpoint, open_checkpoint
from mypt_dist.models.llama import LlamaConfig
from mypt_dist.run.starting import StartReader, vocabulary_tables
from mypt_dist.tokenizers import ByteTokenizer
from mypt_dist.tokenizers.special import SPECIAL_NAMES

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(1200)]

SCRIPT = str(Path(__file__).parent / "start_and_tell.py")
CHATS = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]} for text in "ab"]
FEW = ByteTokenizer({name: 256 + i for i, name in enumerate(SPECIAL_NAMES[:3])})
# An odd number of rows, and of weights in each: pieces of shards begin within old and new rows alike.
SOURCE = LlamaConfig(vocab_size=261, context=16, n_layer=2, n_head=3, head_dim=6, n_embd=13, mlp_hidden=23)
TARGET = SOURCE.with_context(24).model_copy(update={"vocab_size": 320})

FROZEN = ["embed*", "blocks.0.*", "blocks.1.attention*"]
"""The embedding is the head, too; of the second block half is trained, of the first nothing."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_model(tmp_path_factory.mktemp("source") / "base", SOURCE, FEW)[0]


@pytest.fixture(scope="module")
def alone(source: Path, dataset: Path, forked: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start("1", source, dataset, forked, tmp_path_factory.mktemp("alone") / "run")


def start(engine: str, source: Path, dataset: Path, forked: Any, out: Path, frozen: Sequence[str] = ()) -> Path:
    ranks, environment = ENGINES[engine]
    mapping: dict[str, Any] = {
        "out": str(out),
        "start_from": {"path": str(source)},
        "model": {"context": TARGET.context},
        "data": {"path": str(dataset)},
        "optimizer": {"type": "adamw", "lr": 1e-3},
        "train": {"steps": 3, "batch_size": 8, "micro_batch": 2, "log_every": 1, "eval_windows": 8, "freeze": frozen},
        "checkpoints": {"background": False},
        "trackers": [],
    }
    if not frozen:
        chats = out.with_suffix(".jsonl")
        chats.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
        mapping["evaluation"] = {"answers": {"path": str(chats), "max_new_tokens": 5}}
    path = out.with_suffix(".json")
    path.write_text(json.dumps(mapping))
    forked(ranks, SCRIPT, str(path), **environment)
    return out


@pytest.mark.parametrize("engine", ["DDP x2", "FSDP2 x2", "ZeRO-1 x2", "ZeRO-3 x2"])
def test_every_engine_starts_from_the_same_weights(
    engine: str, source: Path, alone: Path, dataset: Path, forked: Any, tmp_path: Path
) -> None:
    run = start(engine, source, dataset, forked, tmp_path / "run")
    held = [piece for rank in range(2) for piece in json.loads((run / f"loaded-{rank}.json").read_text())]
    weights = [piece for piece in held if piece[0].startswith("model/")]
    with open_checkpoint(source) as checkpoint:
        read = StartReader(checkpoint, vocabulary_tables(TARGET), FEW.vocab_size, fresh=[259, 260])
        covered: dict[str, int] = {}
        for name, p in TARGET.build().named_parameters():
            whole = torch.empty(p.numel())
            read(f"model/{name}", tuple(p.shape), 0, whole)
            for piece_name, first, length, sha256 in weights:
                if piece_name == f"model/{name}":
                    piece = whole[first : first + length].numpy().tobytes()
                    assert hashlib.sha256(piece).hexdigest() == sha256, (name, first)
                    covered[name] = covered.get(name, 0) + length
            assert covered[name] == p.numel(), name
    assert losses(run) == pytest.approx(losses(alone), rel=1e-5)
    assert losses(run, "val/accuracy") == pytest.approx(losses(alone, "val/accuracy"), abs=0.02)
    assert answers(run) == answers(alone)


def answers(run: Path) -> Any:
    """What the model answered at the end, which it could only if every rank made as many passes."""
    table = json.loads((run / "answers/step-00000003.json").read_text())
    assert [row[0] for row in table["data"]] == ["a", "b"]
    return table


@pytest.fixture(scope="module")
def frozen_alone(source: Path, dataset: Path, forked: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start("1", source, dataset, forked, tmp_path_factory.mktemp("frozen") / "run", FROZEN)


@pytest.mark.parametrize("engine", ["DDP x2", "FSDP2 x2"])
def test_frozen_weights_stay_on_every_engine(
    engine: str, source: Path, frozen_alone: Path, dataset: Path, forked: Any, tmp_path: Path
) -> None:
    run = start(engine, source, dataset, forked, tmp_path / "run", FROZEN)
    for metric, error in (("train/loss", 1e-5), ("train/grad_norm", 1e-4)):
        assert losses(run, metric) == pytest.approx(losses(frozen_alone, metric), rel=error)
    with open_checkpoint(source) as old, open_checkpoint(run) as new:
        for name, entry in old.manifest.tensors.items():
            stays = name.startswith(("model/blocks.0.", "model/blocks.1.attention"))
            if name != "model/embed.weight":
                assert (_bytes(old, name, entry.elements) == _bytes(new, name, entry.elements)) == stays, name


def test_zero_refuses_to_freeze(source: Path, dataset: Path, forked: Any, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"train\.freeze: ZeRO has fp32 weights of what it trains alone"):
        start("ZeRO-1 x2", source, dataset, forked, tmp_path / "run", ["embed*"])


def _bytes(checkpoint: Checkpoint, name: str, elements: int) -> bytes:
    buffer = bytearray(4 * elements)
    checkpoint.read_into(name, 0, elements, buffer)
    return bytes(buffer)
