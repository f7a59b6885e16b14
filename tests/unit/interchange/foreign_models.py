"""Checkpoints of small models that nobody trained, written by any number of ranks, for tests that export them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoint_doubles import on_ranks, quick_disk

from mypt_dist.checkpoint import CheckpointStore, Manifest, Segment
from mypt_dist.models import ModelConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.models.llama import LlamaConfig
from mypt_dist.run.checkpointing import DTYPES, TOKENIZER_FILE
from mypt_dist.tokenizers import Tokenizer, build_tokenizer
from mypt_dist.world import World

ROWS = 320
BASE: dict[str, Any] = {"vocab_size": ROWS, "context": 32, "n_layer": 2, "n_embd": 32}

MODELS: dict[str, ModelConfig] = {
    "llama": LlamaConfig(**BASE, n_head=4, tie_embeddings=False),
    "llama of SmolLM": LlamaConfig(**BASE, n_head=4, n_kv_head=2, mlp_hidden=48, norm_eps=1e-5, rope_theta=100_000.0),
    "llama with scaled positions": LlamaConfig(**BASE, n_head=4, head_dim=12, rope_scale=4.0, mlp_hidden=48),
    "qwen3": LlamaConfig(**BASE, n_head=4, n_kv_head=1, head_dim=16, qk_norm=True, mlp_hidden=48),
    "qwen3 untied": LlamaConfig(**BASE, n_head=3, head_dim=8, qk_norm=True, tie_embeddings=False, mlp_hidden=40),
    "gpt2": GPTConfig(**BASE, n_head=4, activation="gelu_tanh", bias_qkv=True, bias_head=False),
    "gpt without some biases": GPTConfig(
        **BASE, n_head=2, bias_attention_out=False, bias_mlp=False, bias_norm=False, bias_head=False
    ),
    "gpt of relu, untied": GPTConfig(**BASE, n_head=2, activation="relu", tie_embeddings=False, bias_head=False),
}
"""Of every class of transformers, with what makes them differ."""


def untrained(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> CausalLM:
    """A model none of whose weights is zero or one: what is left out or swapped shows."""
    model = config.build().to(dtype).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = "norm" in name and name.endswith("weight")
            parameter.copy_(gain + 0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def save_model(
    run: Path,
    model: CausalLM,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    *,
    ranks: int = 1,
    describe: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint of step 7 below the folder ``run``; each of ``ranks`` holds an uneven share of every tensor."""
    state = json.dumps((tokenizer or build_tokenizer("byte")).state()).encode()

    def save(world: World) -> Path:
        store = CheckpointStore(run / "checkpoints", world, disk=quick_disk())
        return store.save(
            7,
            _segments(model, world),
            rank_state={},
            files={TOKENIZER_FILE: state} if world.rank == 0 else {},
            describe=lambda files, tensors: Manifest(
                step=7,
                tokens=7 * 8 * config.context,
                samples=56,
                order_hash="0" * 64,
                seed=1,
                world_size=world.size,
                engine={"name": "test"},
                code={"version": "0"},
                files=dict(files),
                tensors=dict(tensors),
                **{"data": {}, "run": {"name": "small", "model": config.model_dump(mode="json")}, **(describe or {})},
            ),
        )

    return on_ranks(ranks, save)[0]


def _segments(model: CausalLM, world: World) -> list[Segment]:
    segments = []
    for name, parameter in model.named_parameters():
        flat = parameter.detach().view(-1)
        cut = -(-flat.numel() // world.size) + 1 if world.size > 1 else flat.numel()
        begin, end = min(world.rank * cut, flat.numel()), min((world.rank + 1) * cut, flat.numel())
        if begin < end:
            piece = flat[begin:end]
            data = piece.view(torch.uint8).numpy().data
            dtype = DTYPES[str(piece.dtype)]
            segments.append(
                Segment(f"model/{name}", tuple(parameter.shape), dtype, begin, end - begin, lambda data=data: data)  # type: ignore[arg-type]
            )
    assert all(math.prod(segment.shape) for segment in segments)
    return segments
