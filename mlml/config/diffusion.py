"""The denoising network of diffusion models, and their samplers."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mlml.config.declared import OR_NAME, BelowOne, Declared, Probability

MIN_LINEAR_TIMESTEPS = 21
"""With fewer the last beta, 0.02 * 1000 / timesteps, would not be less than 1."""


class DenoiserConfig(Declared):
    """The U-Net of Ho et al. 2020, arXiv:2006.11239, appendix B; the defaults are theirs for CIFAR-10.

    Attributes:
        width: channels at full size.
        multipliers: of the width, for each grid from the full one on; each next grid has half the side.
        num_blocks: residual blocks on each grid going down; going up there is one more.
        attention_resolutions: heights in pixels of the grids whose blocks attend to the whole image.
        num_heads: of an attention.
        num_groups: of each group norm; divides every width.
        patch_size: side in pixels of what is one place of the first grid (Luhman & Luhman 2022, arXiv:2207.04316),
            which makes every grid that much smaller; divides the image's sides. 1 is as in the paper of the U-Net.
    """

    width: PositiveInt = 128
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2, 2)
    num_blocks: PositiveInt = 2
    attention_resolutions: tuple[PositiveInt, ...] = (16,)
    num_heads: PositiveInt = 1
    num_groups: PositiveInt = 32
    dropout_prob: BelowOne = 0.1
    patch_size: PositiveInt = 1


class VectorDenoiserConfig(Declared):
    """A residual perceptron for vectors, with the blocks of Peebles & Xie 2023, arXiv:2212.09748, section 3.2.

    Attributes:
        width: of what is between the blocks.
        hidden_ratio: width of the hidden layer of each block, in units of `width`.
    """

    width: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    num_blocks: PositiveInt = 4
    hidden_ratio: PositiveInt = 2
    dropout_prob: BelowOne = 0.0


class TextEncoderConfig(Declared):
    """A transformer over the words of a caption, trained along: Nichol et al. 2022, arXiv:2112.10741, section 4.

    Theirs has 24 blocks of width 2048, for captions from the web; the defaults are for a small vocabulary.
    """

    dim: PositiveInt = 64
    depth: PositiveInt = 2
    num_heads: PositiveInt = 4


class AncestralSampler(Declared):
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, Algorithm 2).

    Attributes:
        steps: null takes every timestep.
        variance: of the noise of a step, both of section 3.2.
    """

    name: Literal["ddpm"]
    steps: PositiveInt | None = None
    variance: Literal["large", "small"] = "large"


class DDIMSampler(Declared):
    """Denoising diffusion implicit model (Song et al. 2021, arXiv:2010.02502, Eq. 12).

    Attributes:
        eta: 0 adds no noise on the way, 1 as much as ancestral sampling.
    """

    name: Literal["ddim"]
    steps: PositiveInt = 50
    eta: Probability = 0.0


class HeunSampler(Declared):
    """Heun's method (Karras et al. 2022, arXiv:2206.00364, Algorithm 1); the defaults are of its table 1, for CIFAR-10.

    Attributes:
        steps: each but the last takes two evaluations of the network.
        sigma_min: the lowest noise level; the schedule's own where that is higher.
        sigma_max: the highest; the schedule's own where that is lower.
        rho: how much denser the levels lie at the low end.
    """

    name: Literal["heun"]
    steps: PositiveInt = 18
    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0


class DPMSolverSampler(Declared):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2)."""

    name: Literal["dpm_solver"]
    steps: PositiveInt = 20


SamplerConfig = Annotated[
    AncestralSampler | DDIMSampler | HeunSampler | DPMSolverSampler, Field(discriminator="name"), OR_NAME
]
"""Field type of a sampler: a name, or a mapping with the name and its numbers."""


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"must be a lower and a higher number; got {list(bounds)}")
    return bounds


SNRRange = Annotated[tuple[NonNegativeFloat, PositiveFloat], AfterValidator(_ascending)]
"""Field type of the least and the most weight of an error of x_0."""


def check_process(noise_schedule: str, timesteps: int, sampler: SamplerConfig) -> None:
    """Refuse numbers of a diffusion process that do not go together.

    Raises:
        ValueError: a linear schedule with so few timesteps that the last beta were 1, or a sampler with more steps.
    """
    if noise_schedule == "linear" and timesteps < MIN_LINEAR_TIMESTEPS:
        raise ValueError(
            f"timesteps must be at least {MIN_LINEAR_TIMESTEPS} where noise_schedule is 'linear'; got {timesteps}"
        )
    if not isinstance(sampler, HeunSampler) and sampler.steps is not None and sampler.steps > timesteps:
        raise ValueError(f"sampler.steps must be at most timesteps, {timesteps}; got {sampler.steps}")
