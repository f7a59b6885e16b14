"""What every registered model must do. A new architecture is tested here without a new line."""

import copy
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mypt_dist.config import validate
from mypt_dist.models import MODELS, ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.optim.adamw import AdamWConfig

VOCAB, LENGTH = 61, 12


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MODELS.names())
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return MODELS[request.param].tiny(vocab_size=VOCAB)


@pytest.fixture
def model(config: ModelConfig) -> CausalLM:
    torch.manual_seed(0)
    return _lively(config.build()).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def _lively(model: CausalLM) -> CausalLM:
    """Large weights: with fresh ones every logit is nearly the same, and tests would compare zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def _gradients(model: CausalLM, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    model(ids).logsumexp(-1).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_logits_cover_the_vocabulary(model: CausalLM, ids: torch.Tensor) -> None:
    assert model(ids).shape == (2, LENGTH, VOCAB)
    assert model.vocab_size == VOCAB


def test_a_token_sees_only_its_past_and_all_of_it(model: CausalLM, ids: torch.Tensor) -> None:
    base = model(ids)
    for place in (0, 5, LENGTH - 1):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] + 1) % VOCAB
        difference = (model(changed) - base).abs().amax(dim=(0, 2))
        assert difference[:place].max() < 1e-5 if place else True
        assert difference[place:].min() > 1e-5


def test_rows_of_a_batch_do_not_mix(model: CausalLM, ids: torch.Tensor) -> None:
    torch.testing.assert_close(model(ids)[:1], model(ids[:1]))


def test_order_matters(model: CausalLM, ids: torch.Tensor) -> None:
    swapped = ids.clone()
    swapped[:, [2, 3]] = ids[:, [3, 2]]
    assert (model(swapped) - model(ids))[:, -1].abs().max() > 1e-5


def test_every_parameter_learns(model: CausalLM, ids: torch.Tensor) -> None:
    gradients = _gradients(model, ids)
    assert [name for name, p in model.named_parameters() if name not in gradients] == []
    assert [name for name, gradient in gradients.items() if not gradient.abs().max() > 0] == []


def test_the_hidden_state_is_what_the_head_reads(model: CausalLM, ids: torch.Tensor) -> None:
    torch.testing.assert_close(model.get_output_embeddings()(model.hidden(ids)), model(ids))


def test_block_classes_exist_and_the_names_that_accelerate_looks_up(model: CausalLM) -> None:
    classes = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules
    assert set(model._no_split_modules) <= classes
    assert isinstance(model.get_input_embeddings(), nn.Embedding)
    assert model.get_output_embeddings().weight.shape[0] == VOCAB


def test_tied_weights_are_one_parameter_and_stay_so_after_being_torn_apart(config: ModelConfig) -> None:
    if not hasattr(config, "tie_embeddings"):
        return
    model = config.model_copy(update={"tie_embeddings": True}).build()
    head, embed = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embed.weight
    head.weight = nn.Parameter(torch.zeros_like(embed.weight))
    model.tie_weights()
    assert head.weight is embed.weight


def test_untied_weights_stay_apart(config: ModelConfig) -> None:
    if not hasattr(config, "tie_embeddings"):
        return
    model = config.model_copy(update={"tie_embeddings": False}).build()
    model.tie_weights()
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_a_state_dict_round_trips(config: ModelConfig, model: CausalLM, ids: torch.Tensor) -> None:
    other = config.build().eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(ids), model(ids))


def test_nothing_but_parameters_needs_saving(model: CausalLM) -> None:
    assert [name for name, _ in model.named_buffers()] == []


def test_bf16_is_finite_and_near_fp32(model: CausalLM, ids: torch.Tensor) -> None:
    reference = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(ids).float()
    pure = copy.deepcopy(model).bfloat16()(ids).float()
    for logits in (cast, pure):
        assert logits.isfinite().all()
        assert (logits - reference).norm() / reference.norm() < 0.1


def test_decay_groups_hold_every_parameter_once(model: CausalLM) -> None:
    groups = AdamWConfig().build(model).param_groups
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in model.parameters()}
    assert all(p.ndim >= 2 for group in groups if group["weight_decay"] for p in group["params"])


@pytest.mark.parametrize("chunks", [(12,), (1,) * 12, (7, 5), (1, 4, 1, 6), (11, 1)], ids=str)
def test_a_cache_changes_nothing(model: CausalLM, ids: torch.Tensor, chunks: tuple[int, ...]) -> None:
    cache = model.new_cache(2)
    with torch.inference_mode():
        pieces = [model(piece, cache) for piece in ids.split(chunks, dim=1)]
    assert cache.lengths == [LENGTH, LENGTH]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(3, 8), (8, 3), (0, 5)], ids=str)
def test_rows_of_unequal_length_continue_as_if_alone(
    model: CausalLM, ids: torch.Tensor, lengths: tuple[int, int]
) -> None:
    alone = [model(row[None]) for row in ids]
    cache = model.new_cache(2)
    with torch.inference_mode():
        model(ids[:, :8], cache)
        cache.rewind(lengths)
        for count in (1, 2, 1):
            starts = cache.lengths
            new = torch.stack([row[start : start + count] for row, start in zip(ids, starts, strict=True)])
            logits = model(new, cache)
            for row, start in enumerate(starts):
                torch.testing.assert_close(logits[row], alone[row][0, start : start + count], atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(config: ModelConfig, model: CausalLM) -> None:
    with pytest.raises(ValueError, match=f"context of {config.context}"):
        model(torch.zeros(1, config.context + 1, dtype=torch.long))
    with pytest.raises(ValueError, match=f"context of {config.context}"):
        model.new_cache(1, config.context + 1)
    cache = model.new_cache(1, capacity=4)
    model(torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="3 of 4"):
        model(torch.zeros(1, 2, dtype=torch.long), cache)


def test_the_meta_device_counts_the_same_parameters_without_memory(config: ModelConfig) -> None:
    with torch.device("meta"):
        hollow = config.build()
    assert all(p.is_meta for p in hollow.parameters())
    counts = [sum(p.numel() for p in built.parameters()) for built in (hollow, config.build())]
    assert counts[0] == counts[1]
    assert hollow.flops_per_token(LENGTH) == config.build().flops_per_token(LENGTH)


def test_a_hollow_model_filled_with_weights_computes_the_same(
    config: ModelConfig, model: CausalLM, ids: torch.Tensor
) -> None:
    with torch.device("meta"):
        hollow = config.build()
    hollow.to_empty(device="cpu").tie_weights()
    hollow.load_state_dict(model.state_dict())
    assert torch.equal(hollow.eval()(ids), model(ids))


def test_the_same_seed_builds_the_same_weights(config: ModelConfig) -> None:
    built = []
    for _ in range(2):
        torch.manual_seed(5)
        built.append(config.build().state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_no_gradient(config: ModelConfig, ids: torch.Tensor, dropout: float) -> None:
    torch.manual_seed(0)
    plain = _lively(config.model_copy(update={"dropout": dropout}).build())
    saving = config.model_copy(update={"dropout": dropout, "activation_checkpointing": True}).build()
    saving.load_state_dict(plain.state_dict())
    assert _kept_bytes(saving, ids) < 0.7 * _kept_bytes(plain, ids)
    expected, got = _gradients(plain.train(), ids), _gradients(saving.train(), ids)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def _kept_bytes(model: CausalLM, ids: torch.Tensor) -> int:
    """What the forward pass keeps for the backward pass, parameters apart."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.train()(ids)
    del output
    return sum(kept.values())


def test_dropout_acts_in_training_only(config: ModelConfig, ids: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = _lively(config.model_copy(update={"dropout": 0.5}).build())
    assert torch.equal(model.eval()(ids), model(ids))
    assert not torch.equal(model.train()(ids), model(ids))


def test_flops_follow_the_weights_and_the_window(config: ModelConfig) -> None:
    small, large = config.build(), config.model_copy(update={"n_layer": 2 * config.n_layer}).build()
    matrices = sum(p.numel() for name, p in large.blocks.named_parameters() if p.ndim == 2)
    assert large.flops_per_token(1) - small.flops_per_token(1) >= 6 * matrices // 2
    slope = small.flops_per_token(2) - small.flops_per_token(1)
    assert slope > 0
    assert small.flops_per_token(9) - small.flops_per_token(8) == slope


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("kind", MODELS.names())
def test_forward_and_blocks_compile_in_one_graph(kind: str) -> None:
    """Without generating code, which takes a minute: a break of the graph is what an architecture can cause."""
    torch.manual_seed(0)
    model = _lively(MODELS[kind].tiny(VOCAB).model_copy(update={"n_layer": 1, "dropout": 0.1}).build())
    ids = torch.randint(VOCAB, (2, LENGTH))
    expected = model.eval()(ids)
    torch._dynamo.reset()
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(ids), expected)
    model.train()
    whole(ids).mean().backward()
    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model.eval()(ids), expected)
    torch._dynamo.reset()


def test_an_open_vocabulary_is_refused_and_settled_by_a_tokenizer(config: ModelConfig) -> None:
    from mypt_dist.errors import ConfigError

    opened = config.model_copy(update={"vocab_size": None})
    with pytest.raises(ConfigError, match=r"model\.vocab_size is null"):
        opened.build()
    assert opened.with_vocabulary(65).build().vocab_size == 128
    assert config.with_vocabulary(999).vocab_size == VOCAB


def test_a_config_survives_json(config: ModelConfig) -> None:
    assert validate(type(config), config.model_dump(mode="json"), "it") == config


def test_looking_at_every_architecture_loads_no_torch() -> None:
    code = (
        "import sys; from mypt_dist.models import MODELS, any_model; any_model()\n"
        "[MODELS[name].tiny(64) for name in MODELS.names()]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
