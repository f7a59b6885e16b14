"""Checkpoints as another program leaves them: weights and a tokenizer, and no run of ours behind them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mypt_dist.checkpoint import CheckpointStore, FileEntry, Manifest, Segment, TensorEntry
from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.world import Solo


def give_model(run: Path, model: ModelConfig, tokenizer: Tokenizer, seed: int = 7) -> tuple[Path, CausalLM]:
    """A checkpoint of ``model`` with random weights, biases and gains included: its folder, and the module."""
    torch.manual_seed(seed)
    module = model.build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    segments = [
        Segment(f"model/{name}", tuple(p.shape), "F32", 0, p.numel(), lambda p=p: p.detach().view(-1).numpy().data)
        for name, p in module.named_parameters()
    ]

    def describe(files: Mapping[str, FileEntry], tensors: Mapping[str, TensorEntry]) -> Manifest:
        told: dict[str, Any] = {"run": {"name": run.name, "model": model.model_dump(mode="json")}, "code": {}}
        engine: dict[str, Any] = {"engine": {}, "world_size": 1, "seed": 0, "data": {}, "order_hash": "", "samples": 0}
        return Manifest(step=9, tokens=90, files=dict(files), tensors=dict(tensors), **told, **engine)

    store = CheckpointStore(run / "checkpoints", Solo())
    state = json.dumps(tokenizer.state()).encode()
    folder = store.save(9, segments, rank_state={}, files={"tokenizer.json": state}, describe=describe)
    return folder, module
