"""The head of DINO: to a point on the sphere, and from there to its likeness with each prototype."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Prototypes(nn.Module):
    """Cosine of each row with each of k directions that are learnt.

    A linear layer without bias whose weights are normalised (Salimans & Kingma 2016, arXiv:1602.07868) with all
    magnitudes fixed to 1, after a normalisation of its input: the last layer of Caron et al. 2021, arXiv:2104.14294,
    section 3.1 and appendix C.

    Attributes:
        weight: (k, d); its directions count, and not its lengths.
        learning: 1, or 0 while the directions are to get no gradient; a buffer, so that a resumed run goes on alike.
    """

    learning: Tensor

    def __init__(self, dim: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(dim, num_prototypes, bias=False).weight.detach())
        self.register_buffer("learning", torch.ones(()))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Cosines, in [-1, 1]."""
        with torch.autocast(x.device.type, enabled=False):  # it would shorten the products
            directions = F.normalize(self.weight, dim=1)
            # a product, and no `if`, which would make a GPU wait
            directions = self.learning * directions + (1 - self.learning) * directions.detach()
            return F.linear(F.normalize(x.float(), dim=1), directions)


def dino_head(dim: int, hidden_dim: int, bottleneck_dim: int, num_prototypes: int) -> nn.Sequential:
    """Three linear layers with GELU between them, then `Prototypes`; there is no batch norm.

    Caron et al. 2021, arXiv:2104.14294, section 3.1 and appendix C. Weights begin normal with a deviation of 0.02, cut
    at 2, and biases at 0, as in the authors' code; those of the prototypes as torch's linear layers.

    Args:
        dim: width of the features that come in.
        hidden_dim: of both hidden layers.
        bottleneck_dim: of the sphere.
        num_prototypes: width of what goes out, the paper's K.
    """
    layers: list[nn.Module] = []
    for before, after in ((dim, hidden_dim), (hidden_dim, hidden_dim), (hidden_dim, bottleneck_dim)):
        linear = nn.Linear(before, after)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1], Prototypes(bottleneck_dim, num_prototypes))
