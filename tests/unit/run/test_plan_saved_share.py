"""What a background save copies is forecast to the byte."""

import torch

from mypt_dist.models.gpt import GPTConfig
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.plan.passes import survey
from mypt_dist.run.plan.process import saved_share


def test_a_rank_copies_its_share_of_weights_and_moments() -> None:
    config, optimizer = GPTConfig(vocab_size=61, context=16, n_layer=2, n_head=2, n_embd=32), AdamWConfig()
    model = config.build()
    adamw = optimizer.build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    held = sum(parameter.nbytes for parameter in model.parameters())
    held += sum(value.nbytes for state in adamw.state.values() for value in state.values())
    parameters, _ = survey(config, optimizer)
    assert saved_share(parameters, 1) == held
    assert saved_share(parameters, 4) == held // 4
