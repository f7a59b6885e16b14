"""The classic GPT: learned positions, LayerNorm, one hidden layer, any bias on or off."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from mypt_dist.models import MODELS, ModelConfig, require_divisor

if TYPE_CHECKING:
    from mypt_dist.models.layers.causal_lm import CausalLM


@MODELS.register
class GPTConfig(ModelConfig):
    """A pre-norm decoder as GPT-2 (Radford et al., 2019). The biases default to those of MyPT's models."""

    type: Literal["gpt"] = "gpt"
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """``gelu_tanh`` is the approximation that GPT-2's own weights were trained with."""
    tie_embeddings: bool = True
    """Use the token embedding as the head's weight (Press & Wolf, 2017, arXiv:1608.05859)."""
    bias_qkv: bool = False
    """In the projections to queries, keys and values."""
    bias_attention_out: bool = True
    bias_mlp: bool = True
    bias_norm: bool = True
    bias_head: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        require_divisor("n_head", self.n_head, "n_embd", self.n_embd)
        return self

    def build(self) -> "CausalLM":
        from mypt_dist.models.gpt.module import GPT  # noqa: PLC0415 - a run file is checked without torch

        return GPT(self)

    @classmethod
    def tiny(cls, vocab_size: int) -> Self:
        return cls(vocab_size=vocab_size, context=32, n_layer=2, n_head=2, n_embd=32)
