"""What every registered model must do with labels and with documents. A new one is tested here without a new line."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mypt_dist.data.batch import IGNORE
from mypt_dist.models import MODELS, ModelConfig
from mypt_dist.models.layers import decoder
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.models.layers.segments import Backend

VOCAB, LENGTH = 61, 30
DOCUMENTS = [[(0, 9), (9, 10), (10, 30)], [(0, 4), (4, 30)]]
"""Of each row: where they begin and end."""
BACKENDS: list[Backend] = ["sdpa", "flex"]

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch._dynamo.reset()


@pytest.fixture(params=MODELS.names())
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return MODELS[request.param].tiny(vocab_size=VOCAB)


@pytest.fixture
def model(config: ModelConfig) -> CausalLM:
    return built(config)


@pytest.fixture(params=BACKENDS)
def _backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "backend_for", lambda *_: request.param)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def segment_ids() -> Tensor:
    rows = [[number for number, (start, end) in enumerate(row) for _ in range(start, end)] for row in DOCUMENTS]
    return torch.tensor(rows)


@pytest.fixture
def labels() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(VOCAB, (2, LENGTH), generator=generator)
    labels[torch.rand(2, LENGTH, generator=generator) < 0.3] = IGNORE
    return labels


def built(config: ModelConfig) -> CausalLM:
    """With large weights: with fresh ones every logit is nearly the same, and tests would compare zeros."""
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def gradients(model: CausalLM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_the_logits(config: ModelConfig, ids: Tensor, labels: Tensor, tied: bool) -> None:
    if "tie_embeddings" in type(config).model_fields:
        config = config.model_copy(update={"tie_embeddings": tied})
    model = built(config)
    loss = model(ids, labels=labels)
    plain = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    found, expected = gradients(model, loss), gradients(model, plain)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_labels_weigh_what_they_are_given(model: CausalLM, ids: Tensor, labels: Tensor) -> None:
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3))
    loss = model(ids, labels=labels, label_weights=weights)
    each = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
    plain = (each * weights.flatten()).sum()
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    found, expected = gradients(model, loss), gradients(model, plain)
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
    same = model(ids, labels=labels, label_weights=torch.ones(labels.shape))
    assert torch.equal(same, model(ids, labels=labels)), "a weight of 1 changes not one bit"
    with pytest.raises(ValueError, match="do not fit labels"):
        model(ids, labels=labels, label_weights=weights[:1])


@torch.no_grad()
def test_the_loss_in_16_bits_is_near(model: CausalLM, ids: Tensor, labels: Tensor) -> None:
    exact = model(ids, labels=labels)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(ids, labels=labels)
    pure = copy.deepcopy(model).bfloat16()(ids, labels=labels)
    for loss in (cast, pure):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_the_head_is_called_once_with_hidden_states_and_labels(model: CausalLM, ids: Tensor, labels: Tensor) -> None:
    """Hooks on its call gather its weight, where weights are sharded."""
    calls: list[tuple[int, ...]] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, output: calls.append((len(inputs), output.dim())))
    model(ids, labels=labels)
    model(ids)
    assert calls == [(3, 0), (1, 3)]


def test_a_pass_needs_no_data(config: ModelConfig, ids: Tensor) -> None:
    """So its memory can be told before there is any."""
    with FakeTensorMode():
        model = config.build()
        fake = torch.zeros((2, LENGTH), dtype=torch.int64)
        model(fake, labels=fake).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.usefixtures("_backend")
def test_other_documents_change_not_one_bit(model: CausalLM, ids: Tensor, segment_ids: Tensor) -> None:
    with torch.no_grad():
        before = model.eval()(ids, segment_ids=segment_ids)
        for row, documents in enumerate(DOCUMENTS):
            for number, (start, end) in enumerate(documents):
                changed = ids.clone()
                changed[row, start:end] = (ids[row, start:end] + 7) % VOCAB
                after = model(changed, segment_ids=segment_ids)
                inside = torch.zeros(2, LENGTH, dtype=torch.bool)
                inside[row] = segment_ids[row] == number
                assert torch.equal(after[~inside], before[~inside])
                assert not (after[inside] == before[inside]).all(dim=-1).any()


@pytest.mark.usefixtures("_backend")
def test_a_document_in_a_window_is_the_document_alone(model: CausalLM, ids: Tensor, segment_ids: Tensor) -> None:
    with torch.no_grad():
        together = model.eval()(ids, segment_ids=segment_ids)
        for row, documents in enumerate(DOCUMENTS):
            for start, end in documents:
                alone = model(ids[row : row + 1, start:end])[0]
                torch.testing.assert_close(together[row, start:end], alone, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(together, model(ids), atol=1e-2), "the mask does something"


@pytest.mark.parametrize("recomputed", [False, True])
def test_documents_learn_from_themselves_alone(
    config: ModelConfig, ids: Tensor, segment_ids: Tensor, recomputed: bool
) -> None:
    model = built(config.model_copy(update={"activation_checkpointing": recomputed}))
    embedded: list[Tensor] = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: embedded.append(output))
    alone = torch.full_like(ids, IGNORE)
    start, end = DOCUMENTS[0][2]
    alone[0, start:end] = ids[0, start:end]
    loss = model(ids, labels=alone, segment_ids=segment_ids)
    (reached,) = torch.autograd.grad(loss, embedded, retain_graph=True)
    assert reached[0, start:end].any(dim=-1).all()
    reached[0, start:end] = 0
    assert not reached.any()
    found = gradients(model, loss)
    expected = gradients(model, model(ids[:1, start:end], labels=ids[:1, start:end]))
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


def test_one_document_a_row_is_no_mask_at_all(model: CausalLM, ids: Tensor) -> None:
    model.eval()
    torch.testing.assert_close(model(ids, segment_ids=torch.full_like(ids, 3)), model(ids), atol=1e-4, rtol=1e-5)


def test_the_mask_is_made_once_for_all_layers(
    model: CausalLM, ids: Tensor, segment_ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = decoder.segment_mask
    monkeypatch.setattr(decoder, "segment_mask", lambda *arguments: made.append(1) or make(*arguments))
    model(ids, segment_ids=segment_ids)
    assert len(model.blocks) > 1
    assert made == [1]


def test_segments_and_a_cache_exclude_each_other(model: CausalLM, ids: Tensor, segment_ids: Tensor) -> None:
    with pytest.raises(ValueError, match="segment_ids and a cache"):
        model(ids, model.new_cache(2), segment_ids=segment_ids)
    with pytest.raises(ValueError, match=r"\(2, 29\) do not fit ids \(2, 30\)"):
        model(ids, segment_ids=segment_ids[:, 1:])
