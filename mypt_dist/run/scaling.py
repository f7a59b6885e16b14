"""How large a model, and how many tokens, for a budget? What scaling laws say, with their sources. Arithmetic only.

A law estimates the loss of N parameters trained once on D tokens, ``loss + a / N^alpha + b / D^beta``. Training is
counted as C = 6·N·D floating-point operations, as the papers do; for short contexts that is close to
`mypt_dist.models.formula.Formula.flops_per_token`.
"""

import math
from dataclasses import dataclass

TOKENS_PER_PARAMETER = 20
"""What Hoffmann et al. (2022, arXiv:2203.15556, table 3) find for the least loss of a budget, nearly whatever it is."""

WORTH = (
    "a first guess: fitted on MassiveText, each token read once, models of 70 million to 16 billion parameters; "
    "below that it extrapolates. It asks for the least loss of a training budget: a model that is used a lot, or must "
    "be small, is trained on far more tokens; data that is repeated more than about 4 times is worth less "
    "(Muennighoff et al., 2023, arXiv:2305.16264)"
)
"""How far to trust the advice."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """A model and its data for the least loss of a budget."""

    parameters: float
    tokens: float

    @property
    def flops(self) -> float:
        """Of training it."""
        return 6 * self.parameters * self.tokens


@dataclass(frozen=True, slots=True)
class Law:
    """``loss + a / N^alpha + b / D^beta``, in nats per token of the authors' own tokenizer."""

    source: str
    loss: float
    a: float
    b: float
    alpha: float
    beta: float

    def of_flops(self, flops: float) -> Optimum:
        """The best use of a budget of computation (their equation 4)."""
        whole = flops / 6
        scale = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        parameters = scale * whole ** (self.beta / (self.alpha + self.beta))
        return Optimum(parameters, whole / parameters)

    def of_tokens(self, tokens: float) -> Optimum:
        """The model for which so many tokens are the right number."""
        # Where both derivatives balance: alpha·a / N^alpha = beta·b / D^beta.
        parameters = (self.alpha * self.a / (self.beta * self.b) * tokens**self.beta) ** (1 / self.alpha)
        return Optimum(float(parameters), tokens)

    def of_parameters(self, parameters: float) -> Optimum:
        """The tokens for which a model of this size is the right one."""
        tokens = (self.beta * self.b / (self.alpha * self.a) * parameters**self.alpha) ** (1 / self.beta)
        return Optimum(parameters, tokens)

    def at(self, parameters: float, tokens: float) -> float:
        """The loss that it expects."""
        return float(self.loss + self.a / parameters**self.alpha + self.b / tokens**self.beta)


HOFFMANN = Law(
    "Hoffmann et al., 2022, arXiv:2203.15556, approach 3", loss=1.69, a=406.4, b=410.7, alpha=0.34, beta=0.28
)
"""As published. Its optimum is at odds with the paper's other two approaches; `BESIROGLU` says why."""

BESIROGLU = Law("Besiroglu et al., 2024, arXiv:2404.10102", loss=1.8172, a=482.01, b=2085.43, alpha=0.3478, beta=0.3658)
"""The same data fitted again, from the points of a figure. It agrees with `TOKENS_PER_PARAMETER`."""


def rule_of_flops(flops: float) -> Optimum:
    """`TOKENS_PER_PARAMETER` for a budget of computation."""
    parameters = math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))
    return Optimum(parameters, TOKENS_PER_PARAMETER * parameters)


def rule_of_tokens(tokens: float) -> Optimum:
    """`TOKENS_PER_PARAMETER` for a corpus."""
    return Optimum(tokens / TOKENS_PER_PARAMETER, tokens)
