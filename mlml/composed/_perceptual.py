"""What autoencoders of features have in common: Hou et al. 2017, arXiv:1610.00291 ("Deep Feature Consistent VAE").

Notation: grid l (b, c_l, h_l, w_l) is what stage l of the base's encoder leaves of images, counted from 1.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mlml.config import PerceptualConfig
from mlml.data.dataset import DataSpec
from mlml.generative._variational import Variational, log_likelihood_of_pixels
from mlml.method import Composed, Method, Output
from mlml.models import Grids


def feature_distance(
    grids: Sequence[Float[Tensor, "b c_l h_l w_l"]],
    others: Sequence[Float[Tensor, "b c_l h_l w_l"]],
    normalise: bool = False,
) -> Float[Tensor, " b"]:
    """Distance of images by what stages of a network leave of each, summed over the stages.

    Half the squared difference, the mean over channels and places: Hou et al. 2017, section 3.2; twice that is Eq. 2 of
    Johnson et al. 2016, arXiv:1603.08155.

    Args:
        grids: of some images, stage by stage.
        others: of as many others.
        normalise: every place's channels are divided by their Euclidean norm, and the squared difference is their sum,
            the mean over places: Zhang et al. 2018, arXiv:1801.03924, Eq. 1 with weights of 1. It does not hang on how
            large the activations of a stage are.

    Returns:
        Dimensionless; 0 for equal grids.
    """
    distances = []
    for grid, other in zip(grids, others, strict=True):
        if normalise:
            ours, theirs = (F.normalize(each.float(), dim=1) for each in (grid, other))
            distances.append((ours - theirs).square().sum(1).flatten(1).mean(1))
        else:
            distances.append(0.5 * (grid.float() - other.float()).square().flatten(1).mean(1))
    return torch.stack(distances).sum(0)


class Perceptual(Composed, Variational):
    """A variational autoencoder whose decoder is to make what a trained classifier sees as the image.

    The reconstruction term of the evidence lower bound is `feature_weight` times `feature_distance`, and `pixel_weight`
    times minus the log likelihood of the pixels, in nats, of which the paper has none. It bounds no likelihood. The
    paper's alpha and beta are our `beta` and `feature_weight`; its 1 and 0.5 are for the activations of a VGG of
    ImageNet, which are larger than those of our networks.

    Raises:
        ValueError: the base's encoder has no such stages.
    """

    config: PerceptualConfig

    def __init__(self, config: PerceptualConfig, spec: DataSpec, base: Method) -> None:
        super().__init__(config, spec, base)
        if (misfit := config.misfit(base.config)) is not None:
            raise ValueError(f"{type(self).__module__.rpartition('.')[2]}: {misfit}")
        self.layers = config.layers or tuple(range(1, base.config.encoder.num_grids + 1))

    def reconstruction(self, logits: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"]) -> Output:
        """The weighted sum of both terms, the mean over images, and the two as they are before they are weighed."""
        with torch.no_grad():
            wanted = self.features(images)
        feature = feature_distance(self.features(logits.sigmoid()), wanted, self.config.normalise).mean()
        pixel = -log_likelihood_of_pixels(logits, images, self.config.likelihood).mean()
        total = self.config.pixel_weight * pixel + self.config.feature_weight * feature
        return Output(total, {"pixel": pixel, "feature": feature})

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c_l h_l w_l"]]:
        """What the compared stages leave of images in [0, 1], in the order in which they are declared."""
        grids = cast(Grids, self.base.encoder).grids(images)
        return [grids[layer - 1] for layer in self.layers]
