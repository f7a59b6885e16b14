"""Under a launcher that asks for FSDP2: prepare a model, with ``--no-shim`` as if Accelerate were left to itself."""

import sys

import torch
from torch.distributed.tensor import DTensor

from mypt_dist.engine import Engine, StepRecipe, fully_sharded
from mypt_dist.models.gpt import GPTConfig

if "--no-shim" in sys.argv:
    fully_sharded.let_cpu_ranks_shard = lambda: None
engine = Engine()
model = GPTConfig(vocab_size=8, context=8, n_layer=1, n_head=1, n_embd=8).build()
trainable = engine.prepare(model, torch.optim.AdamW(model.parameters()), StepRecipe(max_norm=1.0))
assert all(isinstance(parameter, DTensor) for parameter in trainable.module.parameters())
