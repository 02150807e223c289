"""From an image to one number: how real it looks."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mlml.config import NormConfig, PlainNorm
from mlml.layers import norm as norms
from mlml.layers.memory import channels_last

MIN_GRID = 4
"""Grids that are at most as long on their shorter side are not halved again."""

BATCH_NORM = PlainNorm(name="batch")


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


def normalise_spectrally(network: nn.Module) -> None:
    """Divide the weight of every convolution, linear layer and embedding by its largest singular value.

    Miyato et al. 2018, arXiv:1802.05957, Eq. 8 and Algorithm 1: one step of the power iteration at each use in train
    mode. A convolution counts as the matrix of its outputs by all the rest. The vectors of the iteration are buffers.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            parametrizations.spectral_norm(module)
