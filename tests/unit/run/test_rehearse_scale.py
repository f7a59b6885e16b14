"""What is played is the run itself: whatever can break is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mypt_dist.config import load_mapping, validate, with_overrides
from mypt_dist.config.presets import names
from mypt_dist.optim.groups import first_matches
from mypt_dist.run.batching import batch_shape
from mypt_dist.run.config import RunConfig
from mypt_dist.run.rehearse.scale import ACCUMULATION, STEPS, Scaled, World, scaled, smaller_world, told

WORLDS = [World(1, 1), World(2, 1), World(2, 2), World(4, 2), World(8, 2), World(16, 4)]


def config(name: str, *overrides: str) -> RunConfig:
    mapping = {**load_mapping(name), "name": "real"}
    mapping.setdefault("data", {"path": "/data"})
    mapping["train"] = {"steps": 100_000, **mapping.get("train", {})}
    return validate(RunConfig, with_overrides(mapping, overrides), name)


def small(run: RunConfig, world: World, half: bool = True) -> Scaled:
    return scaled(run, world, {"main": Path("/data")}, "http://127.0.0.1:9", half=half)


@pytest.mark.parametrize("micro_batch", ["null", "1"])
@pytest.mark.parametrize("name", names("configs"))
def test_every_shipped_file_can_be_made_small(name: str, micro_batch: str) -> None:
    run = config(name, "train.batch_size=48", f"train.micro_batch={micro_batch}")
    for world in WORLDS:
        play = small(run, world).config
        real = batch_shape(run.train, run.model.context, 0, world.ranks)
        shape = batch_shape(play.train, play.model.context, 0, world.ranks)
        assert shape.micro_batches >= min(real.micro_batches, ACCUMULATION)
        fewer = smaller_world(run, world)
        assert (fewer is None) == (world.ranks == 1)
        if fewer:
            batch_shape(play.train, play.model.context, 0, fewer.ranks)
        with torch.device("meta"):
            model = play.model.with_vocabulary(64).build()
        assert sum(p.numel() for p in model.parameters()) < 4_000_000


def test_what_the_model_is_stays_as_it_is() -> None:
    run = config("llama-150m", "model.n_kv_head=3", "model.qk_norm=true", "model.tie_embeddings=false")
    play = small(run, World(2, 2)).config
    before, after = run.model.model_dump(), play.model.model_dump()
    assert after["n_head"] // after["n_kv_head"] == 2, "grouped queries stay grouped"
    kept = ("type", "qk_norm", "tie_embeddings", "rope_theta", "dropout", "vocab_size", "activation_checkpointing")
    assert {key: before[key] for key in kept} == {key: after[key] for key in kept}
    assert play.data.document_mask == run.data.document_mask
    assert play.train.seed == run.train.seed
    assert play.optimizer == run.optimizer


def test_there_are_as_many_layers_as_the_rules_of_the_optimizer_name() -> None:
    rules = '[{"match": "blocks.3.*", "lr_scale": 0.5}, {"match": "*.bias"}]'
    run = config("small", f"optimizer.groups={rules}")
    play = small(run, World(2, 2)).config
    assert play.model.n_layer == 4
    with torch.device("meta"):
        parameters = [name for name, _ in play.model.with_vocabulary(64).build().named_parameters()]
    assert set(first_matches(parameters, play.optimizer.groups).values()) == {0, 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("unit", ["steps", "tokens"])
def test_the_schedule_keeps_its_shape(unit: str) -> None:
    run = config("small", "train.steps=10000", 'train.schedule.shape="wsd"', f"train.schedule.unit={unit}")
    length = 10_000 * (run.train.batch_size * run.model.context if unit == "tokens" else 1)
    update = {"warmup": length // 10, "decay": length // 5}
    schedule = run.train.schedule.model_copy(update=update)
    run = run.model_copy(update={"train": run.train.model_copy(update={"schedule": schedule})})
    play = small(run, World(2, 2)).config
    total = STEPS * (play.train.batch_size * play.model.context if unit == "tokens" else 1)
    assert play.train.schedule.warmup == pytest.approx(total / 10, abs=1)
    assert play.train.schedule.decay == pytest.approx(total / 5, abs=1)
    assert play.train.schedule.shape == "wsd"


def test_precision_is_what_the_processor_can_do() -> None:
    def played(precision: str, half: bool) -> str:
        return small(config("small", f"train.precision={precision}"), World(2, 2), half).config.train.precision

    assert [played(p, True) for p in ("fp32", "bf16", "fp16", "fp8")] == ["fp32", "bf16", "bf16", "bf16"]
    assert [played(p, False) for p in ("fp32", "bf16", "fp16", "fp8")] == ["fp32"] * 4


def test_a_batch_that_three_of_four_ranks_can_share_still_can_be() -> None:
    run = config("small", "train.batch_size=12", "train.micro_batch=1")
    assert smaller_world(run, World(4, 1)) == World(3, 1)
    play = small(run, World(4, 1)).config
    assert play.train.batch_size % 3 == play.train.batch_size % 4 == 0


def test_whole_nodes_are_left_out_first() -> None:
    run = config("small", "train.batch_size=32")
    assert smaller_world(run, World(8, 2)) == World(4, 1)
    assert smaller_world(run, World(16, 4)) == World(8, 2), "12 ranks cannot share 32 windows"
    assert smaller_world(run, World(1, 1)) is None
    assert smaller_world(run, World(1, 2)) is None, "more nodes than ranks: a mistake that another check tells"


def test_everything_that_was_changed_is_told() -> None:
    run = config("small", 'trackers=[{"type": "mlflow", "uri": "http://mlflow.example"}]')
    play = small(run, World(2, 2), half=False)
    lines = list(told(play.changes))
    assert f"train.steps 100000 -> {STEPS}" in lines
    assert "model.n_embd 384 -> 32" in lines
    assert "train.precision bf16 -> fp32" in lines
    assert "trackers changed" in lines
    unchanged: dict[str, Any] = {"seed": run.train.seed, "max_grad_norm": run.train.max_grad_norm}
    assert {key: getattr(play.config.train, key) for key in unchanged} == unchanged
