"""What a launcher's variables mean, and which of them are refused."""

import json
from pathlib import Path

import pytest

from mypt_dist.errors import ConfigError
from mypt_dist.launch import Topology
from mypt_dist.launch.environment import refuse_contradictions, topology_from_environ
from mypt_dist.launch.topology import promised_ranks

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("environ", "topology"),
    [
        ({}, Topology()),
        ({"WORLD_SIZE": "4"}, Topology("ddp", 4)),
        ({"WORLD_SIZE": "4", **FSDP2}, Topology("fsdp2", 4)),
        (
            {"WORLD_SIZE": "4", **FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "false", "FSDP_OFFLOAD_PARAMS": "true"},
            Topology("fsdp2", 4, 1, False, True, True),
        ),
        ({"WORLD_SIZE": "6", **FSDP2, "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}, Topology("hsdp", 6, 2)),
        ({"WORLD_SIZE": "2", **ZERO}, Topology("zero2", 2)),
        (
            {
                "WORLD_SIZE": "2",
                **ZERO,
                "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
                "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
                "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu",
            },
            Topology("zero3", 2, offload_optimizer=True, offload_parameters=True),
        ),
    ],
)
def test_the_variables_of_a_launch_file_make_a_topology(environ: dict[str, str], topology: Topology) -> None:
    assert topology_from_environ(environ) == topology


def test_deepspeeds_own_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}))
    environ = {"WORLD_SIZE": "2", **ZERO, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    assert topology_from_environ(environ) == Topology("zero1", 2, offload_optimizer=True)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM: use FSDP2"),
        ({"PARALLELISM_CONFIG_TP_SIZE": "2"}, "tensor parallelism .*: shard over more ranks"),
        ({"PARALLELISM_CONFIG_CP_SIZE": "2"}, "context parallelism"),
        ({"ACCELERATE_USE_FSDP": "true"}, "set fsdp_version: 2"),
        (FSDP2, "sharding without a launcher: start with mypt launch"),
        (ZERO, "sharding without a launcher"),
        ({**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "ZeRO stage 0: use 1, 2 or 3"),
        ({**ZERO, "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, "offloading to nvme: use cpu or none"),
        (
            {
                "WORLD_SIZE": "4",
                **FSDP2,
                "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
                "PARALLELISM_CONFIG_DP_SHARD_SIZE": "4",
            },
            "4 ranks in each of 2 replicas, that is 8 ranks, but 4 were started",
        ),
    ],
)
def test_what_is_not_supported_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        topology_from_environ(environ)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "set train.batch_size and train.micro_batch"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", "set train.max_grad_norm"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", "set train.compile"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "set model.activation_checkpointing"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision: fp16 in the launch file, train.precision: bf16"),
    ],
)
def test_a_launch_file_that_owns_mathematics_is_refused(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_contradictions("bf16", {variable: value})


def test_a_launch_file_that_agrees_is_accepted_and_all_contradictions_are_told_at_once() -> None:
    refuse_contradictions("bf16", {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_CLIPPING": "none"})
    refuse_contradictions("fp32", {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "no"})
    with pytest.raises(ConfigError) as caught:
        refuse_contradictions("fp32", {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_CLIPPING": "1"})
    assert len(str(caught.value).splitlines()) == 3


def test_the_promise_of_mypt_launch_counts_more_than_the_world_that_came_of_it() -> None:
    assert promised_ranks({}) == 1
    assert promised_ranks({"WORLD_SIZE": "2"}) == 2
    assert promised_ranks({"MYPT_EXPECT_RANKS": "2", "WORLD_SIZE": "1"}) == 2


def test_shards_and_stages_follow_from_the_engine() -> None:
    assert [Topology("hsdp", 8, 2).shards, Topology("ddp", 8).shards, Topology("zero3", 8).shards] == [4, 1, 8]
    assert [Topology("zero2", 2).zero_stage, Topology("fsdp2", 2).zero_stage] == [2, 0]
