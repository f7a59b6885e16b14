"""The classic GPT: learned positions, LayerNorm, one hidden layer, any bias on or off."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from mypt_dist.models import MODELS, ModelConfig, require_divisor
from mypt_dist.models.formula import Formula, Product

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

    def formula(self) -> Formula:
        width, heads = self.n_embd, self.n_head
        sizes = {"L": self.n_layer, "E": width, "H": heads, "K": heads, "Q": width // heads, "F": 4 * width}
        biases = {
            "qkv": Product("attention", 3, "LE", multiplied=False),
            "attention_out": Product("attention", 1, "LE", multiplied=False),
            "mlp": Product("mlp", 5, "LE", multiplied=False),
        }
        # A block has two norms, and one comes after the last.
        norms = 2 if self.bias_norm else 1
        products = (
            Product("embedding", 1, "VE", multiplied=False),
            Product("positions", 1, "TE", multiplied=False),
            Product("attention", 4, "LEE"),
            Product("mlp", 8, "LEE"),
            *(product for name, product in biases.items() if getattr(self, f"bias_{name}")),
            Product("norm", 2 * norms, "LE", multiplied=False),
            Product("norm", norms, "E", multiplied=False),
            Product("head", 1, "VE", counted=not self.tie_embeddings),
            *([Product("head", 1, "V", multiplied=False)] if self.bias_head else []),
        )
        return Formula({"V": self.rows, "T": self.context, **sizes}, products)

    @classmethod
    def tiny(cls, vocab_size: int) -> Self:
        return cls(vocab_size=vocab_size, context=32, n_layer=2, n_head=2, n_embd=32)
