"""Architectures. A new one is a package here that registers a `ModelConfig`."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from mypt_dist.config import Component, Registry
from mypt_dist.errors import ConfigError
from mypt_dist.models.formula import Formula

if TYPE_CHECKING:
    from mypt_dist.models.layers.causal_lm import CausalLM


class ModelConfig(Component):
    """What every architecture has. The sizes are those of the literature."""

    POSITION_KEYS: ClassVar[tuple[str, ...]] = ()
    """Settings that another context may change without new weights."""

    vocab_size: int | None = Field(default=None, ge=2)
    """Rows of the embedding. Null: the tokenizer's vocabulary, rounded up to a multiple of 64."""
    context: int = Field(ge=1)
    """Positions the model can attend to, and the length of a training window, in tokens."""
    n_layer: int = Field(ge=1)
    n_head: int = Field(ge=1)
    n_embd: int = Field(ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability, on attention weights and on what each branch adds to the residual stream."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""

    @property
    def rows(self) -> int:
        """``vocab_size``, once it is settled. Raises `ConfigError` before."""
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size is null: give a number, or a tokenizer to `with_vocabulary`")
        return self.vocab_size

    def with_vocabulary(self, size: int) -> Self:
        """The same model with its vocabulary settled, if it was left open for a tokenizer of ``size`` ids."""
        return self if self.vocab_size is not None else self.model_copy(update={"vocab_size": -(-size // 64) * 64})

    def settled(self) -> Self:
        """The same with every size written out that is null because it follows from others."""
        return self

    def with_context(self, context: int) -> Self:
        """The same weights for windows of another length. Raises `ValueError` where they have no place for it."""
        if context > self.context:
            raise ValueError(
                f"context {context} is longer than the {self.context} positions that the model has learned: "
                "only rotary ones (model.type: llama) can be stretched"
            )
        return self.model_copy(update={"context": context})

    @abstractmethod
    def build(self) -> "CausalLM":
        """The module with initialised weights, on torch's default device, from torch's default generator.

        Raises `ConfigError` while ``vocab_size`` is null.
        """

    @abstractmethod
    def formula(self) -> Formula:
        """What its parameters are the sum of. Builds nothing. Raises `ConfigError` while ``vocab_size`` is null."""

    @classmethod
    @abstractmethod
    def tiny(cls, vocab_size: int) -> Self:
        """The smallest sensible instance: contract tests run on it."""


MODELS: Registry[ModelConfig] = Registry("model", "mypt_dist.models")


def any_model() -> Any:
    """The annotation of a schema field that holds a model."""
    return MODELS.union()


def require_divisor(key: str, value: int, whole_key: str, whole: int) -> None:
    """``value`` must divide ``whole``. Raises `ValueError`, as validators do, with the values that would."""
    if whole % value:
        legal = ", ".join(str(number) for number in range(1, whole + 1) if whole % number == 0)
        raise ValueError(f"{key} {value} must divide {whole_key} {whole}: one of {legal}")
