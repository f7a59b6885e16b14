"""Training on packed conversations: what is learned, what sees what, and what a run refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_files import conversations, prepared
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.chat import Renderer, read_conversation
from mypt_dist.data.batch import IGNORE, Batch
from mypt_dist.data.config import DataConfig
from mypt_dist.data.loader import BatchShape, TokenGather
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.order import Order, SourceShape
from mypt_dist.data.stream import Reading, TokenStream
from mypt_dist.errors import ConfigError
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.run import build
from mypt_dist.run.config import RunConfig
from mypt_dist.run.coverage import planned_coverage
from mypt_dist.run.data import open_data
from mypt_dist.run.evaluation.perplexity import Text, predicted
from mypt_dist.tracking.journal import read_metrics
from mypt_dist.training.config import TrainConfig

VALUES = conversations(40, longest=9)
ROW = 256
LENGTHS = np.ones(300, np.uint16)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    prepared(folder, VALUES, val_fraction=0.2)
    return folder / "chat"


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighted")
    prepared(folder, VALUES, weights={"close": 0.25, "end": 3.0})
    return folder / "chat"


@pytest.fixture(scope="module")
def model() -> CausalLM:
    torch.manual_seed(0)
    built = GPTConfig.tiny(280).model_copy(update={"context": ROW - 1}).build().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built


def batch_of(dataset: Path) -> Batch:
    """All rows of the training split."""
    manifest = DatasetManifest.read(dataset)
    stream = TokenStream.open(dataset, manifest, "train")
    order = Order([SourceShape("main", len(stream), rows=True)], context=ROW - 1, seed=0)
    gather = TokenGather([stream], manifest.load_tokenizer().byte_lengths(), manifest.vocab_size)
    return gather.batch(order.samples(0, len(stream) // ROW), ROW - 1)


def test_a_conversation_learns_in_a_row_what_it_learns_alone(weighted: Path, model: CausalLM) -> None:
    batch, tokenizer = batch_of(weighted), DatasetManifest.read(weighted).load_tokenizer()
    assert batch.segment_ids is not None
    assert batch.label_weights is not None
    weight = {tokenizer.specials["<|/assistant|>"]: 0.25, tokenizer.specials["<|endofturn|>"]: 3.0}
    alone = {}
    for value in VALUES:
        rendered = Renderer(tokenizer).render(read_conversation(value)[1].conversation)
        ids, mask = torch.from_numpy(rendered.ids.astype(np.int64))[None], torch.from_numpy(rendered.mask)[None]
        labels = torch.where(mask[:, 1:] == 1, ids[:, 1:], IGNORE)
        weights = torch.tensor([[weight.get(label, 1.0) for label in labels[0].tolist()]])
        with torch.no_grad():
            alone[tuple(ids[0].tolist())] = model(ids[:, :-1], labels=labels, label_weights=weights).item()
    targets = 0
    for row, segments in enumerate(batch.segment_ids):
        tokens = batch.input_ids[row].tolist()
        for number in segments.unique().tolist():
            labels = torch.where(segments == number, batch.labels[row], IGNORE)[None]
            if not (labels != IGNORE).any():
                continue
            targets += int((labels != IGNORE).sum())
            place = torch.nonzero(segments == number)[:, 0].tolist()
            ids = tuple(tokens[place[0] : place[-1] + 1])
            # The last token of a row is a target only.
            key = ids if ids in alone else (*ids, int(batch.labels[row, place[-1]]))
            one = slice(row, row + 1)
            with torch.no_grad():
                packed = model(
                    batch.input_ids[one],
                    labels=labels,
                    segment_ids=batch.segment_ids[one],
                    label_weights=batch.label_weights[one],
                ).item()
            assert packed == pytest.approx(alone.pop(key), rel=1e-5)
    assert not alone
    assert targets == batch.num_targets
    chat = DatasetManifest.read(weighted).conversations
    assert chat is not None
    assert targets == chat.counts.learned
    assert batch.total_weight == pytest.approx(float(batch.label_weights.sum()))


def test_other_conversations_of_a_row_change_not_one_bit(chat: Path, model: CausalLM) -> None:
    batch = batch_of(chat)
    assert batch.segment_ids is not None
    ids, segments = batch.input_ids[:1], batch.segment_ids[:1]
    with torch.no_grad():
        before = model(ids, segment_ids=segments)
        for number in segments.unique().tolist():
            changed = torch.where(segments == number, (ids + 3) % 280, ids)
            after = model(changed, segment_ids=segments)
            assert torch.equal(after[segments != number], before[segments != number])
            assert not torch.equal(after[segments == number], before[segments == number])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_labels_and_segments_of_any_window_are_those_told_token_by_token(data: st.DataObject) -> None:
    size = data.draw(st.integers(8, 40))
    column = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    mask, segments = np.array(data.draw(column)) > 0, np.array(data.draw(column), np.uint8)
    weights = np.array(data.draw(column), np.float32) / 2
    tokens = np.arange(size, dtype=np.uint16)
    kinds: dict[Any, Any] = {"mask": mask.astype(np.uint8), "segments": segments, "weights": weights}
    beside = {kind: TokenStream(kind, [kinds[kind]]) for kind in data.draw(st.sets(st.sampled_from(sorted(kinds))))}
    streams = [TokenStream("chat", [tokens], beside=beside), TokenStream("text", [tokens])]
    order = Order([SourceShape("chat", size), SourceShape("text", size)], context=5, seed=1)
    samples = order.samples(0, 8)
    batch = TokenGather(streams, LENGTHS, 300, document_end=7 if data.draw(st.booleans()) else None).batch(samples, 5)
    learned, total = 0, 0.0
    for row, (source, start) in enumerate(zip(samples.source.tolist(), samples.start.tolist(), strict=True)):
        for place in range(5):
            at, own = start + place, beside if source == 0 else {}
            expected = (
                ("mask" not in own or mask[at + 1])
                and ("segments" not in own or (segments[at] == segments[at + 1] != 0))
                and ("weights" not in own or weights[at + 1] > 0)
            )
            assert batch.labels[row, place] == (at + 1 if expected else IGNORE)
            learned += bool(expected)
            total += (float(weights[at + 1]) if "weights" in own else 1.0) if expected else 0.0
            if batch.segment_ids is not None and "segments" in own and place < 4:
                same = bool(batch.segment_ids[row, place] == batch.segment_ids[row, place + 1])
                assert same == (segments[at] == segments[at + 1])
    assert (batch.num_targets, batch.divisor) == (learned, pytest.approx(total if "weights" in beside else learned))
    if batch.segment_ids is not None:
        assert (batch.segment_ids.diff(dim=1) >= 0).all(), "ids grow along a row"


def test_every_row_is_one_sample_of_every_epoch(chat: Path) -> None:
    model = GPTConfig.tiny(280).model_copy(update={"context": ROW - 1})
    data = open_data(DataConfig(path=chat), model)
    rows = len(data.train[0]) // ROW
    samples = data.order(TrainConfig(steps=1, batch_size=2 * rows), ROW - 1).samples(0, 2 * rows)
    for epoch in (samples[:rows], samples[rows:]):
        assert sorted(epoch.start.tolist()) == [row * ROW for row in range(rows)]
    held_out = data.evaluations(BatchShape(4, 4, ROW - 1), 280, windows=99)["val"].batches()
    val = DatasetManifest.read(chat).splits.val
    assert sum(len(batch.input_ids) for batch in held_out) == val.tokens // ROW
    assert all(0 < batch.num_targets < batch.labels.numel() for batch in held_out)


def mapping_for(chat: Path, run_mapping: dict[str, Any]) -> dict[str, Any]:
    model = {**run_mapping["model"], "context": ROW - 1, "dropout": 0.0}
    train = {**run_mapping["train"], "steps": 2, "batch_size": 4, "eval_every": 2, "save_every": 2}
    return {**run_mapping, "model": model, "train": train, "data": {"path": str(chat)}}


def test_a_run_of_another_context_is_refused_with_the_right_one(chat: Path, run_mapping: dict[str, Any]) -> None:
    run_mapping["data"] = {"path": str(chat)}
    with pytest.raises(ConfigError, match=r"packed in rows for a context of 255, model.context is 16"):
        build.train(RunConfig.model_validate(run_mapping))


def test_a_run_counts_and_learns_what_the_masks_say_and_mixes_with_text(
    chat: Path, dataset: Path, run_mapping: dict[str, Any]
) -> None:
    mapping = mapping_for(chat, run_mapping)
    mapping["data"] = {"sources": {"chat": {"path": str(chat)}, "text": {"path": str(dataset)}}}
    config = RunConfig.model_validate(mapping)
    build.train(config)
    metrics = read_metrics(config.folder)
    rows = metrics[-1]
    seen = rows["train/tokens"]
    data = open_data(config.data, config.model)
    samples = data.order(config.train, ROW - 1).samples(0, 8)
    batch = data.gather(280).batch(samples, ROW - 1)
    assert seen == batch.num_targets < 8 * (ROW - 1)
    assert sorted(samples.source.tolist()) == [0] * 4 + [1] * 4
    text = samples.source == 1
    assert (batch.labels[torch.from_numpy(text)] != IGNORE).all(), "of text every token is learned"
    assert any("val/loss" in row for row in metrics)


def test_a_model_is_measured_on_what_is_learned_of_every_row(weighted: Path, model: CausalLM) -> None:
    """By ``mypt eval``: as the loss in training is, which weighs."""
    text, tokenizer = Text(weighted, "train"), DatasetManifest.read(weighted).load_tokenizer()
    found, one_by_one = predicted(model, tokenizer, text), predicted(model, tokenizer, replace(text, batch_size=1))
    batch = batch_of(weighted)
    with torch.no_grad():
        loss = float(model(batch.input_ids, **batch.keywords()))
    assert found.nats == pytest.approx(loss, rel=1e-5) == pytest.approx(one_by_one.nats, rel=1e-5)
    assert (found.tokens, found.weight, found.windows) == (batch.num_targets, batch.divisor, len(batch.input_ids))
    assert found.metrics("x")["x/loss"] == pytest.approx(loss / batch.divisor)
    with pytest.raises(ConfigError, match="packed for a context of 255, the model has 32"):
        predicted(GPTConfig.tiny(280).build(), tokenizer, text)


def test_coverage_knows_rows(chat: Path, run_mapping: dict[str, Any]) -> None:
    config = RunConfig.model_validate(mapping_for(chat, run_mapping))
    rows = DatasetManifest.read(chat).splits.train.tokens // ROW
    limited = {"sources": {"chat": {"path": str(chat), "max_epochs": 1.0, "exhausted": "stop"}}}
    config = RunConfig.model_validate(
        {**config.model_dump(mode="json"), "data": limited, "train": {"steps": 99, "batch_size": 1}}
    )
    assert planned_coverage(config).steps == rows


def test_damage_beside_the_tokens_is_found_or_skipped(memory: Path) -> None:
    prepared(memory, VALUES)
    manifest = DatasetManifest.read(memory / "chat")
    (entry,) = manifest.splits.train.shards
    path = memory / "chat" / (entry.companions or {})["mask"].file
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    stream = TokenStream.open(memory / "chat", manifest, "train", Reading(on_damage="skip"))
    gather = TokenGather([stream], manifest.load_tokenizer().byte_lengths(), manifest.vocab_size)
    order = Order([SourceShape("main", len(stream), rows=True)], context=ROW - 1, seed=0)
    batch = gather.batch(order.samples(0, 2), ROW - 1)
    assert (batch.num_targets, gather.skipped) == (0, 2)
    assert gather.damaged == {"main:train/shard-00000.mask.bin:0"}
