"""Launch files: found, read strictly, and refused with what to do instead, every problem at once."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mypt_dist.config.presets import folder
from mypt_dist.errors import ConfigError
from mypt_dist.launch.files import read_launch_file, targets
from mypt_dist.launch.topology import Topology

FSDP = {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}
ZERO = {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}
TARGETS = {file.name: file for file in targets()}
YAMLS = sorted((folder("launch") / "accelerate").glob("*.yaml"))
JSONS = sorted((folder("launch") / "deepspeed").glob("*.json"))


def write(path: Path, content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    return str(path)


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    """What is said about a YAML, or about a JSON that a YAML points to."""

    def said(content: Any, name: str = "launch.yaml") -> str:
        with pytest.raises(ConfigError) as refused:
            read_launch_file(write(tmp_path / name, content))
        return str(refused.value)

    return said


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_accelerate_reads_every_yaml_and_it_says_how_to_use_it(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    load_config_from_file(str(path))
    description, example = path.read_text().splitlines()[:2]
    assert re.fullmatch(r"# \S.{20,110}\.", description)
    name = "deepspeed/zero2" if path.stem == "deepspeed" else path.stem
    assert example.startswith(f"# mypt launch {name} RUNFILE")


@pytest.mark.parametrize("path", JSONS, ids=lambda path: path.stem)
def test_a_deepspeed_file_leaves_every_number_of_the_run_file_open(path: Path) -> None:
    content = json.loads(path.read_text())
    zero = content.pop("zero_optimization")
    assert content == {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
    }
    assert zero["stage"] == int(path.stem[4])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single", Topology("single", 1)),
        ("cpu", Topology("ddp", 2)),
        ("ddp", Topology("ddp", 8)),
        ("fsdp2", Topology("fsdp2", 8)),
        ("fsdp2-no-reshard", Topology("fsdp2", 8, reshard_after_forward=False)),
        ("fsdp2-offload", Topology("fsdp2", 8, offload_optimizer=True, offload_parameters=True)),
        ("hsdp", Topology("hsdp", 16, replicas=2)),
        ("zero1", Topology("zero1", 8)),
        ("zero2", Topology("zero2", 8)),
        ("zero2-offload", Topology("zero2", 8, offload_optimizer=True)),
        ("zero3", Topology("zero3", 8)),
        ("zero3-offload", Topology("zero3", 8, offload_optimizer=True, offload_parameters=True)),
        ("deepspeed", Topology("zero2", 8)),
        ("deepspeed/zero1", Topology("zero1", 8)),
        ("deepspeed/zero2", Topology("zero2", 8)),
        ("deepspeed/zero2-offload", Topology("zero2", 8, offload_optimizer=True)),
        ("deepspeed/zero3", Topology("zero3", 8)),
        ("deepspeed/zero3-offload", Topology("zero3", 8, offload_optimizer=True, offload_parameters=True)),
    ],
)
def test_a_target_has_the_topology_it_is_named_after(name: str, expected: Topology) -> None:
    file = TARGETS[name]
    assert file.topology(expected.ranks) == expected
    assert file.settings.num_processes in (-1, expected.ranks)


def test_every_target_is_in_the_table_above() -> None:
    (marks,) = test_a_target_has_the_topology_it_is_named_after.pytestmark  # type: ignore[attr-defined]
    assert sorted(TARGETS) == sorted(name for name, _ in marks.args[1])
    assert len(TARGETS) == len(YAMLS) + len(JSONS)


def test_a_target_is_a_name_or_a_path() -> None:
    root = folder("launch")
    for target in ("zero2", "accelerate/zero2", "zero2.yaml", str(root / "accelerate/zero2.yaml")):
        assert read_launch_file(target).path == root / "accelerate/zero2.yaml"
    for target in ("deepspeed/zero3", str(root / "deepspeed/zero3.json")):
        assert read_launch_file(target).deepspeed_path == root / "deepspeed/zero3.json"
        assert read_launch_file(target).engine == "zero3"
    with pytest.raises(ConfigError, match=r"'fsdp3' is neither a file nor a launch target, did you mean 'fsdp2'"):
        read_launch_file("fsdp3")


def test_the_engine_follows_ranks_and_replicas() -> None:
    assert TARGETS["ddp"].topology(1).engine == "single"
    assert TARGETS["fsdp2"].topology(1).engine == "fsdp2"
    assert TARGETS["hsdp"].topology(8, 1) == Topology("fsdp2", 8)
    assert TARGETS["hsdp"].topology(8, 4) == Topology("hsdp", 8, replicas=4)


def test_what_accelerate_config_writes_is_accepted_where_it_changes_nothing(tmp_path: Path) -> None:
    written = {
        **{"compute_environment": "LOCAL_MACHINE", "debug": False, "downcast_bf16": "no", "mixed_precision": "no"},
        **{"enable_cpu_affinity": False, "machine_rank": 0, "main_training_function": "main", "num_machines": 1},
        **{"num_processes": 4, "rdzv_backend": "static", "same_network": True, "tpu_env": [], "use_cpu": False},
        **{"tpu_use_cluster": False, "tpu_use_sudo": False, "dynamo_config": {}, "gpu_ids": "all"},
        "distributed_type": "FSDP",
        "fsdp_config": {
            **{"fsdp_version": 2, "fsdp_activation_checkpointing": False, "fsdp_cpu_ram_efficient_loading": True},
            **{"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_state_dict_type": "SHARDED_STATE_DICT"},
            **{"fsdp_offload_params": False, "fsdp_reshard_after_forward": False},
        },
        "parallelism_config": {
            **{"parallelism_config_dp_replicate_size": 1, "parallelism_config_dp_shard_size": 4},
            **{"parallelism_config_tp_size": 1, "parallelism_config_cp_size": 1, "parallelism_config_sp_size": 1},
        },
    }
    file = read_launch_file(write(tmp_path / "mine.yaml", yaml.safe_dump(written)))
    assert file.topology(4) == Topology("fsdp2", 4, reshard_after_forward=False)
    assert (file.name, file.description) == ("mine", "")


def test_a_pointer_to_deepspeeds_own_file_is_relative_to_the_launch_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write(tmp_path / "own.json", {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}})
    section = {"deepspeed_config_file": "../own.json", "deepspeed_multinode_launcher": "standard"}
    file = read_launch_file(write(tmp_path / "inner/a.yaml", {**ZERO, "deepspeed_config": section}))
    assert file.topology(2) == Topology("zero3", 2, offload_optimizer=True)
    with pytest.raises(ConfigError, match=r"no such file: .*gone\.json"):
        read_launch_file(
            write(tmp_path / "b.yaml", {**ZERO, "deepspeed_config": {"deepspeed_config_file": "gone.json"}})
        )


def test_everything_that_the_run_file_owns_is_refused_at_once(refusal: Any) -> None:
    said = refusal(
        {
            "distributed_type": "FSDP",
            "mixed_precision": "bf16",
            "dynamo_config": {"dynamo_backend": "INDUCTOR"},
            "gradient_accumulation_steps": 4,
            "gradient_clipping": 1.0,
            "fp8_config": {"fp8_backend": "AO"},
            "fsdp_config": {"fsdp_version": 1, "fsdp_activation_checkpointing": True},
            "num_proceses": 2,
        }
    )
    for line in (
        "mixed_precision: 'bf16' belongs to the run file: remove it here and set train.precision there",
        "dynamo_config: it belongs to the run file: remove it here and set train.compile there",
        "gradient_accumulation_steps: 4 belongs to the run file: remove it here and set train.batch_size and train.mic",
        "gradient_clipping: 1.0 belongs to the run file: remove it here and set train.max_grad_norm there",
        "fp8_config: it belongs to the run file: remove it here and set train.precision there",
        "fsdp_config.fsdp_activation_checkpointing: True belongs to the run file: remove it here and set model.activat",
        "fsdp_config.fsdp_version: FSDP version 1 is not supported: set fsdp_version: 2",
        "num_proceses: unknown key, did you mean 'num_processes'?",
    ):
        assert line in said
    assert len(said.splitlines()) == 1 + 8


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("distributed_type: NO", "distributed_type: write 'NO' in quotes"),
        ("[1]", "must hold a mapping, got list"),
        ({"distributed_type": "MULTI_CPU"}, "starts one process without a word: use MULTI_GPU with use_cpu: true"),
        ({"distributed_type": "MEGATRON_LM"}, "Megatron-LM is not supported"),
        ({"distributed_type": "XLA"}, "distributed_type: input should be 'NO', 'MULTI_GPU', 'FSDP' or 'DEEPSPEED'"),
        ({**FSDP, "megatron_lm_config": {"megatron_lm_tp_degree": 2}}, "Megatron-LM is not supported: shard over"),
        ({**FSDP, "num_processes": 0}, "num_processes: 0 is not a number of ranks"),
        ({**FSDP, "num_processes": "2"}, "num_processes: input should be a valid integer, got '2'"),
        ({**FSDP, "num_machines": 0}, "num_machines: input should be greater than or equal to 1, got 0"),
        ({**FSDP, "compute_environment": "AMAZON_SAGEMAKER"}, "compute_environment: input should be 'LOCAL_MACHINE'"),
        ({**FSDP, "tpu_use_cluster": True}, "tpu_use_cluster: a TPU is not supported: use CPUs or GPUs"),
        ({"distributed_type": "FSDP"}, "distributed_type: FSDP needs fsdp_config"),
        ({"distributed_type": "DEEPSPEED"}, "distributed_type: DEEPSPEED needs deepspeed_config"),
        ({**FSDP, "fsdp_config": {}}, "fsdp_config.fsdp_version: FSDP version 1 is not supported: set fsdp_version: 2"),
        ({**FSDP, "distributed_type": "MULTI_GPU"}, "fsdp_config has no effect with distributed_type: MULTI_GPU"),
        ({**ZERO, "fsdp_config": {"fsdp_version": 2}}, "fsdp_config has no effect with distributed_type: DEEPSPEED"),
    ],
)
def test_a_wrong_yaml_is_refused(refusal: Any, content: Any, expected: str) -> None:
    assert expected in refusal(content)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"fsdp_sharding_strategy": "FULL_SHARD"}, "fsdp_sharding_strategy: 'FULL_SHARD' belongs to FSDP version 1"),
        ({"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy: input should be 'TRANSFORMER_BASED_WRA"),
        ({"fsdp_reshard_after_forward": "FULL_SHARD"}, "fsdp_reshard_after_forward: input should be a valid boolean"),
        ({"fsdp_offload_param": True}, "fsdp_offload_param: unknown key, did you mean 'fsdp_offload_params'?"),
    ],
)
def test_a_wrong_fsdp_section_is_refused(refusal: Any, section: dict[str, Any], expected: str) -> None:
    assert f"fsdp_config.{expected}" in refusal({**FSDP, "fsdp_config": {"fsdp_version": 2, **section}})


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, "deepspeed_config: needs zero_stage: 1, 2 or 3, or a deepspeed_config_file"),
        ({"zero_stage": 0}, "deepspeed_config.zero_stage: input should be 1, 2 or 3, got 0"),
        ({"zero_stage": 2, "offload_param_device": "cpu"}, "offload_param_device: cpu needs zero_stage: 3, got 2"),
        ({"zero_stage": 3, "offload_param_device": "nvme"}, "'nvme' is not supported for offloading: use cpu or none"),
        ({"zero_stage": 3, "offload_param_nvme_path": "/nvme"}, "offloading to NVMe is not supported: use cpu"),
        ({"zero_stage": 2, "gradient_accumulation_steps": 4}, "set train.batch_size and train.micro_batch there"),
        ({"zero_stage": 2, "gradient_clipping": 1.0}, "1.0 belongs to the run file: remove it here and set train.max_"),
        ({"zero_stage": 2, "deepspeed_multinode_launcher": "pdsh"}, "input should be 'standard', got 'pdsh'"),
        ({"zero_stage": 2, "deepspeed_hostfile": "hosts"}, "deepspeed_config.deepspeed_hostfile: unknown key"),
        ({"zero_stage": 2, "deepspeed_config_file": "own.json"}, "deepspeed_config_file: it says zero_stage too"),
    ],
)
def test_a_wrong_deepspeed_section_is_refused(
    refusal: Any, tmp_path: Path, section: dict[str, Any], expected: str
) -> None:
    write(tmp_path / "own.json", {"zero_optimization": {"stage": 2}})
    assert expected in refusal({**ZERO, "deepspeed_config": section})


@pytest.mark.parametrize(
    ("key", "parallelism"), [("tp", "tensor"), ("cp", "context"), ("sp", "sequence")], ids=["tp", "cp", "sp"]
)
def test_parallelism_of_other_kinds_is_refused(refusal: Any, key: str, parallelism: str) -> None:
    mesh = {"parallelism_config_dp_replicate_size": 1, "parallelism_config_dp_shard_size": 2}
    said = refusal({**FSDP, "parallelism_config": {**mesh, f"parallelism_config_{key}_size": 2}})
    assert f"parallelism_config_{key}_size: {parallelism} parallelism is not supported: shard over more ranks" in said
    assert "parallelism_config.parallelism_config_dp_shard_size: is missing" in refusal(
        {**FSDP, "parallelism_config": {"parallelism_config_dp_replicate_size": 2}}
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"zero_optimization": {"stage": 2}, "zero_optimization": {}}', "'zero_optimization' stands twice"),
        ({}, "zero_optimization: is missing"),
        ({"train_batch_size": 64}, "64 belongs to the run file: remove it here and set train.batch_size there"),
        ({"train_micro_batch_size_per_gpu": 4}, "set train.micro_batch there"),
        ({"gradient_accumulation_steps": 4}, "set train.batch_size and train.micro_batch there"),
        ({"gradient_clipping": 0.5}, "set train.max_grad_norm there"),
        (
            {"bf16": {"enabled": True}},
            'bf16.enabled: True belongs to the run file: write "auto" here and set train.prec',
        ),
        ({"fp16": {"enabled": False}}, 'fp16.enabled: False belongs to the run file: write "auto" here'),
        ({"communication_data_type": "bf16"}, "communication_data_type: 'bf16' belongs to the run file"),
        (
            {"optimizer": {"type": "AdamW"}},
            "optimizer: it belongs to the run file: remove it here and set optimizer there",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, "set train.schedule there"),
        ({"activation_checkpointing": {"cpu_checkpointing": True}}, "set model.activation_checkpointing there"),
        ({"compile": {"enabled": True}}, "set train.compile there"),
        ({"wandb": {"enabled": True}}, "set trackers there"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor parallelism is not supported"),
        ({"pipeline": {"stages": 2}}, "pipeline parallelism is not supported"),
        ({"sequence_parallel_size": 2}, "sequence parallelism is not supported"),
        ({"zero_optimization": {"stage": 0}}, "zero_optimization.stage: input should be 1, 2 or 3, got 0"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_gradients": True}}, "quantised communication is not supp"),
        ({"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}}, "should be a valid integer, got 'auto'"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "'nvme' is not supported"),
        ({"zero_optimization": {"stage": 1, "offload_param": {"device": "cpu"}}}, "cpu needs stage: 3, got 1"),
        ({"zero_optimization": {"stage": 2, "overlap_com": True}}, "unknown key, did you mean 'overlap_comm'?"),
    ],
)
def test_a_wrong_file_of_deepspeeds_own_is_refused(refusal: Any, content: Any, expected: str) -> None:
    if isinstance(content, dict) and content:
        content = {"zero_optimization": {"stage": 2}, **content}
    assert expected in refusal(content, "own.json")


def test_problems_of_both_files_are_told_together(refusal: Any, tmp_path: Path) -> None:
    write(tmp_path / "own.json", {"zero_optimization": {"stage": 2}, "train_batch_size": 8})
    said = refusal({**ZERO, "mixed_precision": "bf16", "deepspeed_config": {"deepspeed_config_file": "own.json"}})
    assert "launch.yaml is not valid" in said
    assert "own.json is not valid" in said
    assert "train.precision" in said
    assert "train.batch_size" in said
