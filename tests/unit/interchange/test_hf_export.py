"""What is exported is what transformers computes with: every class, every switch, every number of ranks."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Mypt
from foreign_models import BASE, MODELS, ROWS, save_model, untrained
from transformers import AutoModelForCausalLM

from mypt_dist.checkpoint import list_checkpoints
from mypt_dist.errors import ConfigError
from mypt_dist.generation.ids import generate_ids
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.interchange.hf import elements
from mypt_dist.interchange.hf.export import RECORD, ExportOptions, export_hf
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig

IDS = torch.randint(0, ROWS, (2, 32), generator=torch.Generator().manual_seed(3))


def loaded(folder: Path, **options: Any) -> Any:
    """The model as transformers loads it, which must miss nothing and find nothing that it does not know."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same_logits_and_continues_with_the_same_tokens(name: str, tmp_path: Path) -> None:
    config = MODELS[name]
    model = untrained(config)
    save_model(tmp_path / "run", model, config)
    done = export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())
    theirs = loaded(tmp_path / "out")
    assert type(theirs).__name__ == done.architecture
    assert (
        sum(p.numel() for p in theirs.parameters() if p.any())
        == done.parameters
        == sum(p.numel() for p in model.parameters())
    )
    with torch.no_grad():
        expected, found = model(IDS), theirs(IDS).logits
    assert expected.abs().max() > 0.1
    assert (expected - found).abs().max() < 1e-5
    prompts = IDS[:, :5].tolist()
    ours = generate_ids(model, prompts, SamplingConfig(temperature=0, max_new_tokens=20, stop=()), vocab_size=ROWS)
    continued = theirs.generate(
        IDS[:, :5], do_sample=False, max_new_tokens=20, repetition_penalty=1.0, eos_token_id=None,
        attention_mask=torch.ones(2, 5, dtype=torch.int64), temperature=None, top_k=None, top_p=None,
    )  # fmt: skip
    assert continued[:, 5:].tolist() == ours


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_are_rounded_on_request_and_that_is_said(dtype: str, tmp_path: Path) -> None:
    config = MODELS["qwen3"]
    model = untrained(config)
    save_model(tmp_path / "run", model, config)
    done = export_hf(tmp_path / "run", tmp_path / "out", ExportOptions(dtype=dtype))  # type: ignore[arg-type]
    theirs = loaded(tmp_path / "out")
    assert str(theirs.dtype) == f"torch.{done.dtype}"
    embedding = theirs.get_input_embeddings().weight
    assert torch.equal(embedding, model.get_input_embeddings().weight.to(embedding.dtype))
    assert done.is_rounded
    assert f"rounded to {done.dtype}" in (tmp_path / "out/README.md").read_text()


def test_bf16_weights_stay_as_they_are_and_become_fp32_without_loss(tmp_path: Path) -> None:
    config = MODELS["llama of SmolLM"]
    model = untrained(config, dtype=torch.bfloat16)
    save_model(tmp_path / "run", model, config)
    kept = export_hf(tmp_path / "run", tmp_path / "kept", ExportOptions())
    widened = export_hf(tmp_path / "run", tmp_path / "widened", ExportOptions(dtype="fp32"))
    assert (kept.dtype, kept.is_rounded) == ("bfloat16", False)
    assert (widened.dtype, widened.is_rounded) == ("float32", False)
    one, other = loaded(tmp_path / "kept"), loaded(tmp_path / "widened")
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours.float(), theirs)


def test_what_fp16_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    config = MODELS["llama"]
    model = untrained(config)
    with torch.no_grad():
        model.get_parameter("blocks.1.mlp.up.weight")[3, 4] = -70_000.0
    save_model(tmp_path / "run", model, config)
    with pytest.raises(ConfigError, match=r"blocks\.1\.mlp\.up\.weight holds 7e\+04.*--dtype bf16"):
        export_hf(tmp_path / "run", tmp_path / "out", ExportOptions(dtype="fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_many_ranks_and_many_files_give_the_same_model(tmp_path: Path) -> None:
    config = MODELS["gpt2"]
    model = untrained(config)
    save_model(tmp_path / "one", model, config)
    save_model(tmp_path / "five", model, config, ranks=5)
    one = export_hf(tmp_path / "one", tmp_path / "from-one", ExportOptions())
    five = export_hf(tmp_path / "five", tmp_path / "from-five", ExportOptions())
    weights = "model.safetensors"
    assert one.files[weights] == five.files[weights]
    cut = export_hf(tmp_path / "five", tmp_path / "cut", ExportOptions(shard_bytes=30_000))
    shards = [name for name in cut.files if name.endswith(".safetensors")]
    assert len(shards) > 3
    assert weights not in cut.files
    # The embedding alone is larger than a file may be.
    assert sorted(cut.files[name].bytes > 31_000 for name in shards)[-2:] == [False, True]
    whole, parts = loaded(tmp_path / "from-one"), loaded(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_an_export_holds_pieces_of_the_model_and_never_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaConfig(vocab_size=65_536, context=32, n_layer=1, n_head=2, n_embd=32, mlp_hidden=64)
    model = untrained(config)
    save_model(tmp_path / "run", model, config, ranks=3)
    monkeypatch.setattr(elements, "PIECE", 1 << 14)
    export_hf(tmp_path / "run", tmp_path / "first", ExportOptions(dtype="bf16"))
    tracemalloc.start()
    try:
        done = export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.files["model.safetensors"].bytes > 8 << 20
    assert peak < 2 << 20


def test_a_head_bias_is_refused_unless_it_is_zero(tmp_path: Path) -> None:
    config = GPTConfig(**BASE, n_head=2)
    model = untrained(config)
    save_model(tmp_path / "run", model, config)
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel has no head\.bias.*bias_head=false"):
        export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()
    with torch.no_grad():
        model.get_parameter("head.bias").zero_()
        expected = model(IDS)
    save_model(tmp_path / "zero", model, config)
    export_hf(tmp_path / "zero", tmp_path / "out", ExportOptions())
    assert (loaded(tmp_path / "out")(IDS).logits - expected).abs().max() < 1e-5


def test_widths_that_llama_of_transformers_refuses_are_refused_here(tmp_path: Path) -> None:
    config = LlamaConfig(**BASE, n_head=3, head_dim=8)
    save_model(tmp_path / "run", untrained(config), config)
    with pytest.raises(ConfigError, match=r"n_embd 32 is no multiple of model\.n_head 3"):
        export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())


def test_the_record_names_every_file_by_its_hash(tmp_path: Path) -> None:
    config = MODELS["qwen3"]
    save_model(tmp_path / "run", untrained(config), config)
    export_hf(tmp_path / "run", tmp_path / "out", ExportOptions())
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != RECORD}
    assert {name: entry["sha256"] for name, entry in record["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md"} < set(files)
    assert record["checkpoint"]["step"] == 7


def test_the_command_refuses_a_folder_that_holds_something(tmp_path: Path, mypt: Mypt) -> None:
    config = MODELS["llama"]
    save_model(tmp_path / "run", untrained(config), config)
    (tmp_path / "out").mkdir()
    code, out, _ = mypt("ckpt", "export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "out", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["architecture"] == "LlamaForCausalLM"
    assert told["source"] == str(list_checkpoints(tmp_path / "run")[0].folder)
    code, _, err = mypt("ckpt", "export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "out")
    assert code == 2
    assert "holds files already" in err
    code, _, err = mypt("ckpt", "export", tmp_path / "run", "--out", tmp_path / "other", "--shard-size", "huge")
    assert code == 2
    assert "--shard-size" in err
