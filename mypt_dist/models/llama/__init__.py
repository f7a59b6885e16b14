"""Llama's architecture: rotary positions, RMSNorm, SwiGLU, grouped-query attention."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mypt_dist.models import MODELS, ModelConfig, require_divisor
from mypt_dist.models.formula import Formula, Product

if TYPE_CHECKING:
    from mypt_dist.models.layers.causal_lm import CausalLM


@MODELS.register
class LlamaConfig(ModelConfig):
    """A decoder as Llama (Touvron et al., 2023, arXiv:2302.13971), with Qwen3's optional norms of queries and keys."""

    POSITION_KEYS: ClassVar[tuple[str, ...]] = ("rope_theta", "rope_scale")

    type: Literal["llama"] = "llama"
    n_kv_head: int | None = Field(default=None, ge=1)
    """Heads of keys and values, each shared by n_head / n_kv_head heads of queries. Null: one for each."""
    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head. Null: n_embd / n_head."""
    mlp_hidden: int | None = Field(default=None, ge=1)
    """Hidden width of the MLP. Null: 8/3 n_embd, rounded up to a multiple of 64."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scale: float = Field(default=1.0, gt=0)
    """Positions are divided by this."""
    norm_eps: float = Field(default=1e-6, gt=0)
    qk_norm: bool = False
    """Normalise queries and keys in each head."""
    tie_embeddings: bool = True
    """Use the token embedding as the head's weight (Press & Wolf, 2017, arXiv:1608.05859)."""
    bias_head: bool = False

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return self.mlp_hidden or -(-int(8 * self.n_embd / 3) // 64) * 64

    @model_validator(mode="after")
    def _fits(self) -> Self:
        require_divisor("n_kv_head", self.kv_heads, "n_head", self.n_head)
        if self.head_dim is None:
            require_divisor("n_head", self.n_head, "n_embd", self.n_embd)
        if self.head_width % 2:
            raise ValueError(self._odd_heads())
        return self

    def _odd_heads(self) -> str:
        if self.head_dim is not None:
            return f"head_dim {self.head_dim} must be even, because rotary positions turn pairs"
        even = [str(n) for n in range(1, self.n_embd) if self.n_embd % (2 * n) == 0]
        legal = f"n_head must be one of {', '.join(even)}" if even else "n_embd must be even"
        return (
            f"n_embd {self.n_embd} / n_head {self.n_head} gives heads of odd width {self.head_width}, but rotary "
            f"positions turn pairs: {legal}, or head_dim be set"
        )

    def settled(self) -> Self:
        sizes = {"n_kv_head": self.kv_heads, "head_dim": self.head_width, "mlp_hidden": self.hidden}
        return self.model_copy(update=sizes)

    def with_context(self, context: int) -> Self:
        """See `ModelConfig.with_context`. Positions beyond those learned are squeezed in between them.

        Linear interpolation (Chen et al., 2023, arXiv:2306.15595); it wants some hundred steps of training.
        """
        longer = max(1.0, context / self.context)
        return self.model_copy(update={"context": context, "rope_scale": self.rope_scale * longer})

    def build(self) -> "CausalLM":
        from mypt_dist.models.llama.module import Llama  # noqa: PLC0415 - a run file is checked without torch

        return Llama(self)

    def formula(self) -> Formula:
        sizes = {"L": self.n_layer, "E": self.n_embd, "H": self.n_head, "K": self.kv_heads}
        products = (
            Product("embedding", 1, "VE", multiplied=False),
            # Queries and output, keys and values.
            Product("attention", 2, "LEHQ"),
            Product("attention", 2, "LEKQ"),
            *([Product("attention", 2, "LQ", multiplied=False)] if self.qk_norm else []),
            Product("mlp", 3, "LEF"),
            Product("norm", 2, "LE", multiplied=False),
            Product("norm", 1, "E", multiplied=False),
            Product("head", 1, "VE", counted=not self.tie_embeddings),
            *([Product("head", 1, "V", multiplied=False)] if self.bias_head else []),
        )
        return Formula({"V": self.rows, "T": self.context, **sizes, "Q": self.head_width, "F": self.hidden}, products)

    @classmethod
    def tiny(cls, vocab_size: int) -> Self:
        return cls(vocab_size=vocab_size, context=32, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, qk_norm=True)
