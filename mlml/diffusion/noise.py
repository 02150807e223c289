"""How an image becomes noise, step by step, and what of it a network may be asked to predict.

Notation: T timesteps, t = 0 .. T - 1 (the papers count from 1); `beta`, `alpha_bar` (T,) are those of Ho et al. 2020,
arXiv:2006.11239. A noised image is x_t = `signal` x_0 + `noise` epsilon with epsilon ~ N(0, I), where `signal` =
sqrt(alpha_bar_t) and `noise` = sqrt(1 - alpha_bar_t). Their ratio `sigma` = noise / signal is the noise level of Karras
et al. 2022, arXiv:2206.00364, whose images are x_t / signal. All coefficients are computed in float64.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Prediction = Literal["epsilon", "x0", "v"]
"""What a network tells of a noised image: its noise, the image, or the velocity between them."""

CLEAN = -1.0
"""The timestep before the first: an image without noise."""


class Rates(NamedTuple):
    """How much of an image and of noise a noised image has."""

    signal: float
    noise: float


class NoiseSchedule:
    """The forward process q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I): Ho et al. 2020, Eq. 4.

    Attributes:
        beta: variance that each step adds, (T,) float64.
        alpha_bar: what is left of the image's variance, the product of 1 - beta, (T,) float64.

    Raises:
        ValueError: no timesteps, or a beta outside of (0, 1).
    """

    def __init__(self, beta: NDArray[np.float64]) -> None:
        if len(beta) == 0 or not (beta.min() > 0 and beta.max() < 1):
            given = f"{beta.min()} to {beta.max()}" if len(beta) else "none"
            raise ValueError(f"noise schedule: every beta must be greater than 0 and less than 1; got {given}")
        self.beta = beta.astype(np.float64)
        self.alpha_bar: NDArray[np.float64] = np.cumprod(1 - self.beta).astype(np.float64)
        self._log_sigma = 0.5 * (np.log1p(-self.alpha_bar) - np.log(self.alpha_bar))  # (T,), rising

    @property
    def timesteps(self) -> int:
        """Their number T."""
        return len(self.beta)

    def rates(self, t: float) -> Rates:
        """Rates at a timestep; between two, the logarithm of sigma is interpolated; at CLEAN there is no noise.

        Raises:
            ValueError: outside of -1 to T - 1, or between CLEAN and 0, where sigma falls to nothing.
        """
        if t == CLEAN:
            return Rates(1.0, 0.0)
        if not 0 <= t <= self.timesteps - 1:
            raise ValueError(f"noise schedule: a timestep must be -1, or 0 to {self.timesteps - 1}; got {t}")
        if t == int(t):
            alpha_bar = float(self.alpha_bar[int(t)])
            return Rates(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
        sigma = math.exp(np.interp(t, np.arange(self.timesteps), self._log_sigma))
        return Rates(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))

    def sigma(self, t: float) -> float:
        """Noise level of Karras et al. 2022 at a timestep."""
        rates = self.rates(t)
        return rates.noise / rates.signal

    def timestep(self, sigma: float) -> float:
        """Timestep at which the noise level is `sigma`, between two where need be: the inverse of `sigma`."""
        return float(np.interp(math.log(sigma), self._log_sigma, np.arange(self.timesteps)))


def linear(timesteps: int) -> NoiseSchedule:
    """Betas that rise in equal steps, from 1e-4 to 0.02 for T = 1000: Ho et al. 2020, section 4.

    For another T both ends are times 1000 / T, so that about as much noise is added in all, as in Nichol & Dhariwal
    2021, arXiv:2102.09672, and the authors' code.

    Raises:
        ValueError: fewer than 21 timesteps, for which the last beta would not be less than 1.
    """
    scale = 1000 / timesteps
    if scale * 0.02 >= 1:
        raise ValueError(f"noise schedule 'linear': timesteps must be at least 21; got {timesteps}; take 'cosine'")
    return NoiseSchedule(np.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=np.float64))


def cosine(timesteps: int) -> NoiseSchedule:
    """Betas by which alpha_bar falls as a squared cosine: Nichol & Dhariwal 2021, Eq. 17, with s = 0.008.

    A beta is at most 0.999, as in the paper, so that the last step leaves something to divide by.
    """

    def f(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    ends = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    return NoiseSchedule(np.minimum(1 - f(ends[1:]) / f(ends[:-1]), 0.999))


SCHEDULES = {"linear": linear, "cosine": cosine}
"""Schedules by their names."""


def target(
    kind: Prediction,
    x0: Float[Tensor, "b ..."],
    epsilon: Float[Tensor, "b ..."],
    signal: Tensor | float,
    noise: Tensor | float,
) -> Float[Tensor, "b ..."]:
    """What a network that predicts `kind` should say; v = signal epsilon - noise x_0.

    Salimans & Ho 2022, arXiv:2202.00512, section 4 and appendix D; their alpha_t and sigma_t are our rates.
    """
    match kind:
        case "epsilon":
            return epsilon
        case "x0":
            return x0
        case "v":
            return signal * epsilon - noise * x0


def to_x0(
    kind: Prediction,
    prediction: Float[Tensor, "b ..."],
    x: Float[Tensor, "b ..."],
    signal: Tensor | float,
    noise: Tensor | float,
) -> Float[Tensor, "b ..."]:
    """The image that a prediction of `kind` for the noised `x` means."""
    match kind:
        case "epsilon":
            return (x - noise * prediction) / signal
        case "x0":
            return prediction
        case "v":
            return signal * x - noise * prediction


def to_epsilon(
    x0: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], signal: Tensor | float, noise: Tensor | float
) -> Float[Tensor, "b ..."]:
    """The noise in `x`, given the image."""
    return (x - signal * x0) / noise
