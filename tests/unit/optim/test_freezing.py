"""Parameters that are not trained, by name."""

import pytest
from torch import nn

from mypt_dist.errors import ConfigError
from mypt_dist.launch import Topology
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.optim.freezing import freeze
from mypt_dist.run.plan.passes import survey
from mypt_dist.run.plan.states import Layout, states


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_what_a_pattern_matches_is_frozen_and_counted_once() -> None:
    model = LlamaConfig.tiny(64).build()
    everything = trained(model)
    numbers = freeze(model, ["blocks.0.*", "*attention*", "embed.weight"])
    left = trained(model)
    assert left == {n for n in everything if n.startswith("blocks.1.") and "attention" not in n} | {"norm.weight"}
    assert numbers == sum(p.numel() for name, p in model.named_parameters() if name not in left)
    assert freeze(LlamaConfig.tiny(64).build(), ()) == 0


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["block.*"], r"train\.freeze\.0: 'block\.\*' matches no parameter, near it are .*blocks\.\*"),
        (["norm*", "head.weight"], r"train\.freeze\.1: 'head\.weight' .*: head\.weight is tied to embed\.weight"),
        (["*"], "nothing is left to train"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(patterns: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        freeze(GPTConfig.tiny(64).build(), patterns)


def test_what_is_frozen_needs_neither_gradient_nor_moments() -> None:
    model = GPTConfig.tiny(64)
    whole = states(survey(model, AdamWConfig())[0], Layout(Topology())).device
    parameters, _ = survey(model, AdamWConfig(), ["blocks.*"])
    held = states(parameters, Layout(Topology())).device
    left = sum(p.elements for p in parameters if not p.name.startswith("blocks."))
    assert held.weights == whole.weights
    assert held.gradients == left * 4
    assert held.optimizer == left * 8 + 4 * sum(p.trained for p in parameters)
