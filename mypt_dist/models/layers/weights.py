"""With which numbers does a fresh weight start?

Every matrix is drawn from a normal distribution with standard deviation 0.02. What ends a residual branch is drawn
narrower, by 1/sqrt(2 n_layer), so that the residual stream keeps its variance with depth (GPT-2: Radford et al.,
2019, section 2.3). Biases start at zero.
"""

import torch
from torch import Tensor, nn

STD = 0.02


class Linear(nn.Linear):
    """`torch.nn.Linear` that starts as described above."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, std: float = STD) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weight from torch's default generator."""
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` that starts as described above."""

    def reset_parameters(self) -> None:
        """Draw the weight from torch's default generator."""
        nn.init.normal_(self.weight, std=STD)


def residual_std(n_layer: int) -> float:
    """Standard deviation of a matrix that ends a residual branch, of which a layer has two."""
    return float(STD / (2 * n_layer) ** 0.5)


def rows_for_new_tokens(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(V, E) rows of an embedding or a head to (``count``, E) rows of tokens that it does not have yet.

    Around the mean of what is there (Hewitt, 2021, "Initializing new word embeddings for pretrained language models"):
    a fresh row of another size would shift the probabilities of all other tokens, in the head above all. A tenth of
    each column's spread tells them apart.
    """
    mean, spread = rows.float().mean(0), rows.float().std(0)
    noise = torch.randn((count, rows.size(1)), generator=generator).to(rows.device)
    return (mean + 0.1 * spread * noise).to(rows.dtype)


def count_matrix_weights(module: nn.Module) -> int:
    """Weights that a token is multiplied with: those of every linear layer, a tied head included."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
