"""From an image to one number: how real it looks."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mlml.config import NormConfig, PlainNorm
from mlml.layers import norm as norms
from mlml.layers.memory import channels_last

MIN_GRID = 4
"""Grids that are at most as long on their shorter side are not halved again."""

BATCH_NORM = PlainNorm(name="batch")

FIRST_ITERATIONS = 15
"""Of the power iteration, before the first use."""


class ConvDiscriminator(nn.Module):
    """Strided convolutions, each halving the grid and doubling the width, and a linear layer.

    Radford et al. 2016 (DCGAN), arXiv:1511.06434, section 3: no pooling, leaky ReLU of slope 0.2, batch norm after
    every convolution but the first.

    Args:
        channels: of the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        base_width: channels after the first convolution.
        norm: what takes the place of batch norm.
        last_bias: whether the logit has a bias; a critic, of whose scores only differences count, needs none.

    Attributes:
        feature_dim: of the features before the linear layer.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        base_width: int,
        norm: NormConfig = BATCH_NORM,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size, before, after = (height, width), channels, base_width
        while min(size) > MIN_GRID or not layers:
            bias = not layers or not norms.has_bias(norm)
            layers.append(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1, bias=bias))
            if len(layers) > 1 and norms.has_bias(norm):
                layers.append(norms.build(norm, after, images=True, layer=f"discriminator: layer {len(layers)}"))
            layers.append(nn.LeakyReLU(0.2))
            size, before, after = (size[0] // 2, size[1] // 2), after, 2 * after
        self.layers = nn.Sequential(*layers)
        self.feature_dim = before * size[0] * size[1]
        self.to_logit = nn.Linear(self.feature_dim, 1, bias=last_bias)

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What the linear layer takes, of images about [-1, 1]."""
        features: Tensor = self.layers(channels_last(images))
        return features.flatten(1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Logits of being real, of images about [-1, 1]."""
        logits: Tensor = self.to_logit(self.features(images))
        return logits[:, 0]


class SpectralNorm(nn.Module):
    """A weight over its largest singular value, as a parametrisation: Miyato et al. 2018, arXiv:1802.05957, Eq. 8.

    One step of the power iteration of Algorithm 1 at each use in train mode; u and v are buffers. A convolution counts
    as the matrix of its outputs by all the rest. Torch's own stops in half precision, whose products it takes.

    Args:
        weight: the one to come, by which u and v begin.
    """

    def __init__(self, weight: Float[Tensor, "n ..."]) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)  # (n, d)
        self.u: Tensor
        self.v: Tensor
        self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self._iterate(matrix)

    def forward(self, weight: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Normalise the weight."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self._iterate(matrix)
            # copies, for the next use of this step changes them in place
            largest = torch.dot(self.u.clone(), matrix @ self.v.clone())
            return weight / largest

    @torch.no_grad()
    def _iterate(self, matrix: Float[Tensor, "n d"]) -> None:
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))


def normalise_spectrally(network: nn.Module) -> None:
    """Give every convolution, linear layer and embedding of a network a weight of spectral norm 1."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))
