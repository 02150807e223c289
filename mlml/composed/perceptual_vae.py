"""Variational autoencoder of features: Hou et al. 2017, arXiv:1610.00291 ("Deep Feature Consistent VAE").

Notation as in `mlml.generative._variational`; there is no condition.
"""

from mlml.composed._perceptual import Perceptual
from mlml.config import PerceptualConfig
from mlml.generative._variational import Unconditional


class PerceptualVAE(Perceptual, Unconditional):
    """A VAE whose images are to look to a trained classifier as those that they stand for."""

    measures = ("reconstruction", "kl", "active_dimensions", "collapsed_dimensions", "pixel", "feature")
    base_families = ("supervised",)
    base_needs = ("encode",)
    base_seed = "first"

    class Config(PerceptualConfig):
        """Numbers of the autoencoder."""

    config: Config
