"""What a run reads, as its ``data`` section says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import mypt_pretraining

from mypt_dist.data.config import DataConfig
from mypt_dist.data.foreign import adopt
from mypt_dist.data.loader import BatchShape, segments_of
from mypt_dist.errors import ConfigError
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.run import build
from mypt_dist.run.config import RunConfig
from mypt_dist.run.data import RunData, open_data
from mypt_dist.run.resume import is_fixed
from mypt_dist.tracking.journal import read_metrics
from mypt_dist.training.config import TrainConfig

CONTEXT = 200
END_OF_TEXT = 256


def opened(dataset: Path, *, document_mask: bool) -> RunData:
    model = GPTConfig.tiny(320).model_copy(update={"context": CONTEXT})
    return open_data(DataConfig(path=dataset, document_mask=document_mask), model)


@pytest.mark.parametrize("document_mask", [False, True])
def test_documents_are_told_apart_in_both_splits_if_asked(dataset: Path, document_mask: bool) -> None:
    data = opened(dataset, document_mask=document_mask)
    assert data.tokenizer.eot_id == END_OF_TEXT
    samples = data.order(TrainConfig(steps=1, batch_size=8), CONTEXT).samples(0, 8)
    batches = [
        data.gather(320).batch(samples, CONTEXT),
        *data.evaluations(BatchShape(4, 4, CONTEXT), 320, windows=4)["val"].batches(),
    ]
    assert len(batches) == 2
    for batch in batches:
        assert (batch.input_ids == END_OF_TEXT).any()
        if document_mask:
            assert batch.segment_ids is not None
            assert torch.equal(batch.segment_ids, segments_of(batch.input_ids, END_OF_TEXT))
        else:
            assert batch.segment_ids is None


def test_masks_make_another_run_on_the_same_data(dataset: Path) -> None:
    assert opened(dataset, document_mask=True).fingerprint == opened(dataset, document_mask=False).fingerprint
    assert is_fixed("data.document_mask")


def test_a_run_with_masks_learns_something_else_from_the_same_tokens(run_mapping: dict[str, Any]) -> None:
    run_mapping["model"] |= {"context": 128, "dropout": 0.0}
    rows: list[list[dict[str, float]]] = []
    for document_mask in (False, True):
        run_mapping["data"]["document_mask"] = document_mask
        out = Path(run_mapping["out"]).with_name(f"run-{document_mask}")
        build.train(RunConfig.model_validate({**run_mapping, "out": str(out)}))
        rows.append(read_metrics(out))
    for name, same in (("train/tokens", True), ("train/loss", False), ("val/loss", False), ("val/bpb", False)):
        plain, masked = ([row[name] for row in run if name in row] for run in rows)
        assert masked == pytest.approx(plain, rel=0.01)
        assert (masked == plain) is same


def test_characters_without_ends_of_text_need_no_rows_for_control_tokens(tmp_path: Path, dataset: Path) -> None:
    text = "hello, world"
    kinds = sorted(set(text))
    ids = [kinds.index(character) for character in text] * 20
    state = {"token_kind": "char", "chars": kinds, "base_vocab_size": None}
    folder = mypt_pretraining(tmp_path / "mypt", ids, ids, state=state, tokenization="char", vocab_size=len(kinds))
    adopt(folder)
    model = GPTConfig.tiny(len(kinds)).model_copy(update={"context": 16})
    data = open_data(DataConfig(path=folder), model)
    batch = data.gather(len(kinds)).batch(data.order(TrainConfig(steps=1, batch_size=4), 16).samples(0, 4), 16)
    assert int(batch.input_ids.max()) < len(kinds) < data.tokenizer.vocab_size
    with pytest.raises(ConfigError, match=f"has {len(kinds)} ids"):
        open_data(DataConfig(path=folder), model.model_copy(update={"vocab_size": len(kinds) - 1}))
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 256"):
        open_data(DataConfig(path=dataset), GPTConfig.tiny(256))
