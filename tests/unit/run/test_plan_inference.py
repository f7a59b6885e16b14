"""What generating needs, against a generation that is watched: its tensors here, its process in one of its own."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mypt_dist.errors import ConfigError
from mypt_dist.generation.ids import generate_ids
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.launch import Topology
from mypt_dist.models import MODELS, ModelConfig
from mypt_dist.run.plan.allocations import Allocations
from mypt_dist.run.plan.forecast import Forecaster, Way
from mypt_dist.run.plan.inference import Serving, inference
from mypt_dist.run.plan.table import Asked, memory_table
from mypt_dist.run.sizes import model_sizes

SCRIPT = Path(__file__).parents[2] / "multiproc/generate_measure.py"


def watched(config: ModelConfig, batch: int, tokens: int) -> int:
    """The most bytes of tensors of a real generation that fills rows of ``tokens``."""
    torch.manual_seed(0)
    model = config.build()
    most = 0

    def observe(live: int) -> None:
        nonlocal most
        most = max(most, live)

    prompts = [[1] * (tokens - 1) for _ in range(batch)]
    with Allocations(model.parameters(), observe):
        generate_ids(model, prompts, SamplingConfig(max_new_tokens=1, stop=()), vocab_size=config.rows)
    return most + sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize(("batch", "tokens"), [(1, 32), (16, 32), (8, 3)])
@pytest.mark.parametrize("kind", MODELS.names())
def test_tensors_of_a_generation_are_as_planned(kind: str, batch: int, tokens: int) -> None:
    config = MODELS[kind].tiny(vocab_size=5000)
    planned = inference(config, batch, tokens, Serving())
    assert planned.tensors == pytest.approx(watched(config, batch, tokens), rel=0.02)
    cache = config.build().new_cache(batch, tokens)
    assert planned.cache == cache.keys.nbytes + cache.values.nbytes


def test_the_process_of_a_generation_is_as_planned() -> None:
    config, shares = model_sizes("tiny").config, []
    for _ in range(3):
        done = subprocess.run([sys.executable, SCRIPT, "tiny", "8", "128"], capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        shares.append(inference(config, 8, 128, Serving(base=told["base"])).total / told["process"])
        # How a heap is filled differs from run to run; one in its middle is enough.
        if abs(statistics.median(shares) - 1) <= 0.1:
            return
    assert statistics.median(shares) == pytest.approx(1, abs=0.1)


def test_sixteen_bits_take_half_and_a_row_is_no_longer_than_the_context() -> None:
    config = MODELS["llama"].tiny(vocab_size=640)
    whole, half = (inference(config, 2, 16, Serving("gpu", half=half)) for half in (False, True))
    assert (half.weights, half.cache) == (whole.weights // 2, whole.cache // 2)
    with pytest.raises(ConfigError, match="a row of 33 tokens does not fit: the model's context is 32"):
        inference(config, 2, 33, Serving())


def test_the_table_says_what_the_plan_of_each_way_says() -> None:
    asked = Asked(engines=("ddp", "fsdp2", "zero2"), ranks=(1, 2, 3), batches=(1,), tokens=(64,), device="gpu")
    made = memory_table("micro", [], asked)
    rows = {(one.engine, one.ranks): one for one in made.training}
    assert list(rows)[:4] == [("single", 1), ("ddp", 2), ("fsdp2", 2), ("zero2", 2)]
    for (engine, ranks), one in rows.items():
        if ranks == 3:
            assert one.forecast is None
            assert "train.batch_size 16 cannot be shared by 3 ranks" in one.refusal
            continue
        from mypt_dist.run.plan.table import _filled_in

        config = _filled_in("micro", [])
        alone = Forecaster(config, "gpu")(Way(Topology(engine, ranks), 16 // ranks, 1))
        assert one.forecast == alone
    assert made.parameters == json.loads(json.dumps(made.to_json()))["parameters"]
    assert [one.total for one in made.generating] == [
        inference(model_sizes("micro").config, 1, 64, Serving("gpu", half=half)).total for half in (False, True)
    ]


def test_a_micro_batch_that_does_not_divide_a_share_becomes_the_next_smaller_one() -> None:
    asked = Asked(engines=("ddp",), ranks=(8,), batches=(), device="gpu")
    (one,) = memory_table("micro", ["train.batch_size=48", "train.micro_batch=4"], asked).training
    assert one.forecast is not None
    assert (one.forecast.way.micro_batch, one.forecast.way.micro_batches) == (3, 2)
