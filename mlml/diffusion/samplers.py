"""Samplers: from noise to an image, given what a denoiser takes the image to be. Pure functions.

Notation: `x` (b, ...) is a noised image as in `mlml.diffusion.noise`, standard normal at first. Timesteps t run
downwards and `s` is the next one, at last CLEAN, of which alpha_bar is 1. a_t, a_s are short for alpha_bar at t and s.
A sampler draws from `generator` alone, and only if it is stochastic: with the same generator it gives the same bits.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mlml.config import AncestralSampler, DDIMSampler, DPMSolverSampler, HeunSampler, SamplerConfig
from mlml.diffusion.noise import CLEAN, NoiseSchedule, to_epsilon

Denoise = Callable[[Tensor, float], Tensor]
"""(x, t) -> estimate of x_0, for all noised images of a batch at one timestep, which may be a fraction."""


def sample(
    config: SamplerConfig,
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    schedule: NoiseSchedule,
    generator: torch.Generator,
) -> Float[Tensor, "b ..."]:
    """Run the declared sampler."""
    match config:
        case AncestralSampler():
            return ddpm(denoise, x, schedule, config.steps or schedule.timesteps, generator, config.variance)
        case DDIMSampler():
            return ddim(denoise, x, schedule, config.steps, generator, config.eta)
        case HeunSampler():
            return heun(denoise, x, schedule, config.steps, config.sigma_min, config.sigma_max, config.rho)
        case DPMSolverSampler():
            return dpm_solver(denoise, x, schedule, config.steps)


def timesteps(total: int, steps: int) -> list[int]:
    """So many timesteps of 0 .. `total` - 1 at equal distances, downwards, the last one first.

    They end a distance before CLEAN, so that every step is equally long.

    Raises:
        ValueError: more steps than timesteps.
    """
    if steps > total:
        raise ValueError(f"sampler: steps must be at most the number of timesteps, {total}; got {steps}")
    return [int(np.round(total * k / steps)) - 1 for k in range(steps, 0, -1)]


def ddpm(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    schedule: NoiseSchedule,
    steps: int,
    generator: torch.Generator,
    variance: Literal["large", "small"] = "large",
) -> Float[Tensor, "b ..."]:
    """Ancestral sampling: Ho et al. 2020, arXiv:2006.11239, Algorithm 2, its mean as in Eq. 7.

    With fewer steps than timesteps, beta is that of the whole step, 1 - a_t / a_s (Nichol & Dhariwal 2021, section 4).

    Args:
        denoise: estimates the image.
        x: standard normal.
        schedule: with which the denoiser was trained.
        steps: calls of the denoiser.
        generator: on the device of x.
        variance: of the noise that a step adds: "large" is beta, "small" beta (1 - a_s) / (1 - a_t) (section 3.2).
    """
    for t, s in _steps(schedule, steps):
        a_t, a_s = _alpha_bar(schedule, t), _alpha_bar(schedule, s)
        beta = 1 - a_t / a_s
        of_x0, of_x = math.sqrt(a_s) * beta / (1 - a_t), math.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
        x = of_x0 * denoise(x, t) + of_x * x
        if s != CLEAN:
            added = beta if variance == "large" else beta * (1 - a_s) / (1 - a_t)
            x = x + math.sqrt(added) * _normal(x, generator)
    return x


def ddim(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    schedule: NoiseSchedule,
    steps: int,
    generator: torch.Generator,
    eta: float = 0.0,
) -> Float[Tensor, "b ..."]:
    """Denoising diffusion implicit model: Song et al. 2021, arXiv:2010.02502, Eq. 12, sigma as in Eq. 16.

    Args:
        denoise: estimates the image.
        x: standard normal.
        schedule: with which the denoiser was trained.
        steps: calls of the denoiser.
        generator: on the device of x; not drawn from where eta is 0.
        eta: 0 adds no noise, 1 as much as ancestral sampling with the small variance.
    """
    for t, s in _steps(schedule, steps):
        a_t, a_s = _alpha_bar(schedule, t), _alpha_bar(schedule, s)
        x0 = denoise(x, t)
        epsilon = to_epsilon(x0, x, *schedule.rates(t))
        sigma = eta * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
        x = math.sqrt(a_s) * x0 + math.sqrt(max(1 - a_s - sigma**2, 0)) * epsilon
        if sigma > 0:
            x = x + sigma * _normal(x, generator)
    return x


def heun(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    schedule: NoiseSchedule,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Float[Tensor, "b ..."]:
    """Heun's second-order method: Karras et al. 2022, arXiv:2206.00364, Algorithm 1, its noise levels as in Eq. 5.

    It works with y = x / signal, whose noise level is sigma; D(y; sigma) is the denoiser at the timestep of that level,
    which may lie between two. Noise levels outside of those of the schedule are taken to its ends.

    Args:
        denoise: estimates the image; called twice a step, once in the last.
        x: standard normal.
        schedule: with which the denoiser was trained.
        steps: of the integration.
        sigma_min: the last noise level before 0.
        sigma_max: the first noise level.
        rho: how much denser the levels lie at the low end.
    """
    low, high = max(sigma_min, schedule.sigma(0)), min(sigma_max, schedule.sigma(schedule.timesteps - 1))
    ramp = np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho

    def slope(y: Tensor, sigma: float) -> Tensor:
        """dy/dsigma: line 4 of the algorithm."""
        t = schedule.timestep(sigma)
        return (y - denoise(schedule.rates(t).signal * y, t)) / sigma

    y = high * x
    for sigma, following in pairwise([*map(float, ramp), 0.0]):
        d = slope(y, sigma)
        euler = y + (following - sigma) * d
        y = euler if following == 0 else y + (following - sigma) * (d + slope(euler, following)) / 2
    return y


def dpm_solver(
    denoise: Denoise, x: Float[Tensor, "b ..."], schedule: NoiseSchedule, steps: int
) -> Float[Tensor, "b ..."]:
    """DPM-Solver++(2M): Lu et al. 2022, arXiv:2211.01095, Algorithm 2.

    lambda_t = log(signal_t / noise_t) and h = lambda_s - lambda_t. The first step is of first order, for there is no
    estimate before it; so is the last, to the clean image, where h is infinite.

    Args:
        denoise: estimates the image.
        x: standard normal.
        schedule: with which the denoiser was trained.
        steps: calls of the denoiser.
    """
    before: tuple[Tensor, float] | None = None  # the last estimate, and the h of its step
    for t, s in _steps(schedule, steps):
        x0 = denoise(x, t)
        if s == CLEAN:
            return x0
        (signal_t, noise_t), (signal_s, noise_s) = schedule.rates(t), schedule.rates(s)
        h = math.log(signal_s / noise_s) - math.log(signal_t / noise_t)
        estimate = x0
        if before is not None:
            r = before[1] / h
            estimate = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before[0]
        x = noise_s / noise_t * x - signal_s * math.expm1(-h) * estimate
        before = (x0, h)
    return x


def _steps(schedule: NoiseSchedule, steps: int) -> Iterator[tuple[float, float]]:
    """Timesteps and those that follow them."""
    return pairwise([*map(float, timesteps(schedule.timesteps, steps)), CLEAN])


def _alpha_bar(schedule: NoiseSchedule, t: float) -> float:
    return 1.0 if t == CLEAN else float(schedule.alpha_bar[int(t)])


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
