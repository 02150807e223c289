"""What autoencoders have in common: an encoder to a code, a decoder back to pixels, and the error between the two.

Notation: z (b, k) are codes, k = `latent_dim`; logits (b, c, h, w) are the decoder's, their sigmoid the reconstruction.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml import models
from mlml.data.dataset import DataSpec
from mlml.method import Method

Error = Literal["cross_entropy", "squared"]


def reconstruction_error(
    logits: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"], error: Error
) -> Float[Tensor, " b"]:
    """Error of each image, the sum over its components; a negative log likelihood, in nats, up to a constant.

    "cross_entropy" is that of Bernoulli pixels, "squared" half the squared error, that of Gaussian pixels of variance 1
    (Vincent et al. 2010, JMLR 11:3371, section 2).
    """
    if error == "cross_entropy":
        each = F.binary_cross_entropy_with_logits(logits.float(), images.float(), reduction="none")
    else:
        each = 0.5 * (logits.float().sigmoid() - images.float()).square()
    return each.flatten(1).sum(1)


class Autoencoding(Method):
    """A method whose features are the code of an autoencoder.

    Attributes:
        to_code: from the encoder's features to the code.
        decoder: from codes to the logits of pixels; the method's own sets it.
    """

    decoder: nn.Module

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.to_code = nn.Linear(self.encoder.feature_dim, config.latent_dim)
        self.feature_dim: int = config.latent_dim

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Codes of images in [0, 1]."""
        codes: Tensor = self.to_code(self.encoder(images))
        return codes

    def decode(self, codes: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] of codes."""
        images: Tensor = self.decoder(codes).float().sigmoid()
        return images

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] after a pass through the code."""
        return self.decode(self.encode(images))

    def interpolate(
        self, first: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], steps: int
    ) -> Float[Tensor, "b s c h w"]:
        """Decoded points of the straight line between two images' codes, both ends included."""
        z0, z1 = self.encode(first), self.encode(last)
        t = torch.linspace(0, 1, steps, device=z0.device)[None, :, None]  # (1, s, 1)
        z = (1 - t) * z0[:, None] + t * z1[:, None]  # (b, s, k)
        return torch.unflatten(self.decode(z.flatten(0, 1)), 0, (len(z0), steps))

    def illustrate(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures in [0, 1]: images, and their reconstructions."""
        return {"truth": images, "reconstruction": self.reconstruct(images)}
