"""Conditional variational autoencoder of features: Sohn et al. 2015 and Hou et al. 2017, arXiv:1610.00291, in one.

Notation as in `mlml.generative._variational`; y are labels of k classes, the condition is their one-hot code.
"""

from typing import Any, Literal

from mlml.composed._perceptual import Perceptual
from mlml.config import PerceptualConfig
from mlml.generative.conditional_vae import ConditionalVAE


class PerceptualConditionalVAE(Perceptual, ConditionalVAE):
    """A conditional VAE whose images are to look to a trained classifier as those that they stand for.

    The likelihood of pixels is best served by the mean of all images that a code may stand for, a blur; it takes what
    tells similar classes apart, such as the seam of a coat, away first.
    """

    measures = ("reconstruction", "kl", "active_dimensions", "collapsed_dimensions", "pixel", "feature")
    reads_labels = True
    base_families = ("supervised",)
    base_needs = ("encode",)
    base_seed = "first"

    class Config(PerceptualConfig):
        """Numbers of the autoencoder.

        Attributes:
            prior: "conditional", one of each class; "standard", N(0, I).
        """

        prior: Literal["conditional", "standard"] = "conditional"

    config: Any  # of both bases
