"""What transformers saved is a checkpoint of ours with the same numbers, and there and back again is where we began."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Mypt
from foreign_models import MODELS, ROWS, save_model, untrained
from foreign_tokenizers import description, save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen3Config

from mypt_dist.chat import MYPT
from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.interchange import write_adopted
from mypt_dist.interchange.hf.adopt import adopt_hf
from mypt_dist.interchange.hf.export import ExportOptions, export_hf
from mypt_dist.run.models import load_for_generation, load_model
from mypt_dist.tokenizers import build_tokenizer
from mypt_dist.tokenizers.hf import HfTokenizer

IDS = torch.randint(0, ROWS, (2, 32), generator=torch.Generator().manual_seed(4))

SIZES = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
THEIRS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=48, max_position_embeddings=64, rms_norm_eps=1e-5),
    "smollm": LlamaConfig(
        **SIZES, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    ),
    "llama with linear scaling": LlamaConfig(
        **SIZES, intermediate_size=48, max_position_embeddings=64,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5_000.0},
    ),
    "qwen3": Qwen3Config(**SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=16, max_position_embeddings=64),
    "gpt2": GPT2Config(vocab_size=ROWS, n_positions=64, n_embd=32, n_layer=2, n_head=4),
}  # fmt: skip


def theirs(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of transformers with random weights, saved as it saves."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(THEIRS[name], attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", THEIRS)
def test_ours_computes_the_same_logits(name: str, tmp_path: Path) -> None:
    model = theirs(name, tmp_path / "theirs")
    adopted = adopt_hf(tmp_path / "theirs", "byte")
    assert adopted.origin.generation == type(model).__name__
    ours = load_model(write_adopted(adopted, tmp_path / "run"))
    with torch.no_grad():
        expected = model(IDS).logits
        assert expected.abs().max() > 0.1
        assert (ours(IDS) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_there_and_back_changes_no_bit(name: str, shard_bytes: int, tmp_path: Path) -> None:
    config = MODELS[name]
    before = save_model(tmp_path / "run", untrained(config), config, ranks=3)
    export_hf(before, tmp_path / "hf", ExportOptions(shard_bytes=shard_bytes))
    after = write_adopted(adopt_hf(tmp_path / "hf"), tmp_path / "again")
    (model, tokenizer), (again, same) = load_for_generation(before), load_for_generation(after)
    weights = {
        name: weight for name, weight in again.state_dict().items() if weight.any() or name in model.state_dict()
    }
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert same.fingerprint == tokenizer.fingerprint
    # What was left out because it is zero may be there now; another export is the same.
    one = export_hf(after, tmp_path / "second", ExportOptions())
    two = export_hf(before, tmp_path / "third", ExportOptions())
    assert one.files["model.safetensors"] == two.files["model.safetensors"]


def test_bf16_weights_stay_bf16(tmp_path: Path) -> None:
    model = theirs("qwen3", tmp_path / "theirs", torch.bfloat16)
    adopted = adopt_hf(tmp_path / "theirs", "byte")
    assert set(adopted.origin.dtypes) == {"BF16"}
    with open_checkpoint(write_adopted(adopted, tmp_path / "run")) as checkpoint:
        assert {tensor.dtype for tensor in checkpoint.manifest.tensors.values()} == {"BF16"}
    ours = load_model(tmp_path / "run")
    assert torch.equal(ours.get_input_embeddings().weight, model.get_input_embeddings().weight.float())
    export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())
    assert_same_tensors(tmp_path / "theirs/model.safetensors", tmp_path / "out/model.safetensors")


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first)


def test_names_and_buffers_of_older_files_are_known(tmp_path: Path) -> None:
    model = theirs("gpt2", tmp_path / "theirs")
    path = tmp_path / "theirs/model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, path)
    ours = load_model(write_adopted(adopt_hf(path, "byte"), tmp_path / "run"))
    with torch.no_grad():
        assert (ours(IDS) - model(IDS).logits).abs().max() < 1e-5
    tensors["lm_head.weight"][3, 4] += 1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from the embedding"):
        adopt_hf(path, "byte")


REFUSED = [
    ("llama", {"attention_bias": True}, "attention_bias is True"),
    ("llama", {"mlp_bias": True}, "mlp_bias is True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'llama3'"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"model_type": "mixtral"}, "model_type is 'mixtral'; what can be read is llama, qwen3, gpt2"),
    ("llama", {"hidden_size": None}, "hidden_size must be a positive whole number"),
    ("llama", {"num_key_value_heads": 3}, "n_kv_head 3 must divide n_head 4"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("gpt2", {"activation_function": "silu"}, "activation_function is 'silu'"),
    ("gpt2", {"n_inner": 99}, "n_inner is 99"),
    ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each of their models."""
    root = tmp_path_factory.mktemp("saved")
    for name in ("llama", "qwen3", "gpt2"):
        theirs(name, root / name)
    return root


@pytest.mark.parametrize(("name", "change", "problem"), REFUSED, ids=range(len(REFUSED)))
def test_what_no_model_here_computes_is_refused_by_its_key(
    name: str, change: dict[str, Any], problem: str, saved: Path, tmp_path: Path
) -> None:
    config = json.loads((saved / name / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    (tmp_path / "model.safetensors").symlink_to(saved / name / "model.safetensors")
    with pytest.raises(ConfigError) as refusal:
        adopt_hf(tmp_path, "byte")
    assert problem in str(refusal.value)


def test_damaged_and_foreign_files_are_refused(saved: Path, tmp_path: Path, mypt: Mypt) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / "llama" / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="may be cut short"):
        adopt_hf(tmp_path, "byte")
    weights.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
    with pytest.raises(CheckpointError, match="its header does not fit"):
        adopt_hf(tmp_path, "byte")
    tensors = load_file(saved / "llama/model.safetensors")
    tensors["model.layers.0.mlp.extra.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError) as refusal:
        adopt_hf(tmp_path, "byte")
    assert "missing: model.norm.weight" in str(refusal.value)
    assert "not part of it: model.layers.0.mlp.extra.weight" in str(refusal.value)
    index = {"weight_map": {"a": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="no safetensors file beside it"):
        adopt_hf(tmp_path, "byte")
    (tmp_path / "model.safetensors.index.json").unlink()
    weights.rename(tmp_path / "pytorch_model.bin")
    code, _, err = mypt("ckpt", "import", "hf", tmp_path, "--out", tmp_path / "run")
    assert code == 2
    assert "pytorch_model.bin, a format that runs code" in err
    assert not (tmp_path / "run").exists()


def test_a_foreign_tokenizer_comes_along_and_goes_back(saved: Path, tmp_path: Path, mypt: Mypt) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / "llama" / name).read_bytes())
    code, _, err = mypt("ckpt", "import", "hf", tmp_path, "--out", tmp_path / "run")
    assert code == 2
    assert "no tokenizer.json" in err
    assert "--tokenizer" in err
    save_tokenizer("smollm", tmp_path, eos_token="<|im_start|>")
    code, _, err = mypt("ckpt", "import", "hf", tmp_path, "--out", tmp_path / "run")
    assert code == 2
    assert "330 ids, and the embedding 320 rows" in err


def test_the_end_of_text_is_found_and_the_tokenizer_goes_back_as_it_came(tmp_path: Path, mypt: Mypt) -> None:
    config = THEIRS["llama"].to_dict() | {"vocab_size": 384}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{k: v for k, v in config.items() if k != "model_type"}))
    model.save_pretrained(tmp_path / "theirs")
    save_tokenizer("llama3", tmp_path / "theirs", eos_token="<|end_of_text|>")
    code, out, err = mypt("ckpt", "import", "hf", tmp_path / "theirs", "--out", tmp_path / "run", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["tokenizer"] == {"kind": "hf", "vocab_size": 333}
    assert any("<|end_of_text|>" in note for note in told["notes"])
    assert any("post_processor" in note for note in told["notes"])
    export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())
    before, after = (json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("theirs", "out"))
    assert before == after
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|end_of_text|>"
    _, tokenizer = load_for_generation(tmp_path / "run")
    assert tokenizer.decode(tokenizer.encode("the quick dog")) == "the quick dog"


def test_data_is_prepared_with_the_tokenizer_of_an_imported_model(tmp_path: Path) -> None:
    from mypt_dist.data.manifest import DatasetManifest
    from mypt_dist.data.prepare import PrepareSettings, prepare

    mine = HfTokenizer(description("llama3"), "<|end_of_text|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(mine.state()))
    (tmp_path / "a.txt").write_text("the quick brown fox <|eot_id|>")
    prepare([tmp_path / "a.txt"], tmp_path / "data", PrepareSettings(tokenizer=str(tmp_path / "tokenizer.json")))
    manifest = DatasetManifest.read(tmp_path / "data")
    assert manifest.load_tokenizer().fingerprint == mine.fingerprint
    assert (manifest.vocab_size, manifest.eot_id) == (mine.vocab_size, mine.eot_id)
    assert manifest.splits.train.tokens == len(mine.encode("the quick brown fox <|eot_id|>")) + 1


def test_the_tokenizer_of_gpt2_is_recognised(tmp_path: Path) -> None:
    from mypt_dist.interchange.hf.tokenizer_files import tokenizer_files
    from mypt_dist.interchange.hf.tokenizer_in import tokenizer_in
    from mypt_dist.tokenizers import Gpt2Tokenizer

    plain = Gpt2Tokenizer({"<|endoftext|>": 50256})
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_files(plain, 64, MYPT)["tokenizer.json"])
    found, _ = tokenizer_in(tmp_path, {})
    assert found.fingerprint == plain.fingerprint
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_files(build_tokenizer("gpt2"), 64, MYPT)["tokenizer.json"])
    found, _ = tokenizer_in(tmp_path, {})
    assert found.kind == "hf"
    assert dict(found.specials) == dict(build_tokenizer("gpt2").specials)
