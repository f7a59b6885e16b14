"""With which numbers does a fresh weight start?

Every matrix is drawn from a normal distribution with standard deviation 0.02. What ends a residual branch is drawn
narrower, by 1/sqrt(2 n_layer), so that the residual stream keeps its variance with depth (GPT-2: Radford et al.,
2019, section 2.3). Biases start at zero.
"""

from torch import nn

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


def count_matrix_weights(module: nn.Module) -> int:
    """Weights that a token is multiplied with: those of every linear layer, a tied head included."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
