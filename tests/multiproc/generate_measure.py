"""One generation in a process of its own, which tells the most that it took.

generate_measure.py PRESET ROWS TOKENS    prints {"base", "process"} in bytes
"""

import json
import sys

import torch

import mypt_dist.run.models
from mypt_dist.generation.ids import generate_ids
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.run.plan.process import most_resident
from mypt_dist.run.sizes import model_sizes

assert mypt_dist.run.models, "imported for what it loads"


def main(preset: str, rows: int, tokens: int) -> None:
    config = model_sizes(preset).config
    base = most_resident()
    # As a checkpoint's model is made: without drawing weights that are overwritten.
    with torch.device("meta"):
        model = config.build()
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    prompts = [[1] * (tokens - 1) for _ in range(rows)]
    generate_ids(model, prompts, SamplingConfig(max_new_tokens=1, stop=()), vocab_size=config.rows)
    print(json.dumps({"base": base, "process": most_resident()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
