"""A denoiser of vectors, which have no grid for a U-Net: a residual perceptron that time enters in every block.

Notation: d components of a vector, w = `width` of what is between the blocks, h = `hidden_ratio` * w.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml.config import VectorDenoiserConfig
from mlml.diffusion.denoiser import time_embedding


class VectorDenoiser(nn.Module):
    """From noised vectors and their timesteps to a prediction of the vectors' shape.

    The blocks are those of Peebles & Xie 2023, arXiv:2212.09748, section 3.2 (adaLN-Zero), without attention: a layer
    norm whose shift and scale are linear in the embedding of time, a hidden layer of SiLU, and a gate, linear in it as
    well. Gates and the last layer begin with weights of 0, so that every block begins as the identity.

    Args:
        config: its numbers.
        dim: components of a vector.
    """

    def __init__(self, config: VectorDenoiserConfig, dim: int) -> None:
        super().__init__()
        self.width = config.width
        self.time = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.first = nn.Linear(dim, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.last = _zero(nn.Linear(config.width, dim))

    def forward(self, x: Float[Tensor, "b d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Predict what of the noised vectors `x` the objective asks for, at timesteps `t`."""
        embedding = F.silu(self.time(time_embedding(t, self.width)))  # (b, w)
        inner = self.first(x)  # (b, w)
        for block in self.blocks:
            inner = block(inner, embedding)
        prediction: Tensor = self.last(F.silu(self.norm(inner)))
        return prediction


class _Block(nn.Module):
    """x + gate * perceptron(scale * norm(x) + shift)."""

    def __init__(self, config: VectorDenoiserConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden_ratio * config.width
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = _zero(nn.Linear(width, 3 * width))
        self.perceptron = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Dropout(config.dropout_prob), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale, gate = self.modulate(embedding).chunk(3, dim=1)
        moved: Tensor = x + gate * self.perceptron((1 + scale) * self.norm(x) + shift)
        return moved


def _zero(layer: nn.Linear) -> nn.Linear:
    """Let a layer begin with weights of 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
