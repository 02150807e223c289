"""Samplers against slow loops of their papers' algorithms, and against data whose best denoiser is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from mlml.config import SamplerConfig
from mlml.diffusion import noise, samplers
from mlml.diffusion.noise import CLEAN, SCHEDULES

MEAN, STD = 0.4, 0.3
DETERMINISTIC = ("ddim", "heun", "dpm_solver")


def declared(name, **numbers):
    return TypeAdapter(SamplerConfig).validate_python({"name": name, **numbers})


def gaussian(schedule):
    """The best denoiser of data that are N(MEAN, STD^2): the posterior mean of x_0."""

    def denoise(x, t):
        signal, spread = schedule.rates(t)
        gain = signal * STD**2 / (signal**2 * STD**2 + spread**2)
        return MEAN + gain * (x - signal * MEAN)

    return denoise


def crooked(schedule):
    """Some denoiser that is not linear in x, and tells timesteps apart."""
    return lambda x, t: torch.tanh(x * (1 + t / schedule.timesteps)) * 0.8 + 0.01 * x**2


def noised(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Recorded:
    """A generator's numbers, for a loop that is written without torch."""

    def __init__(self, seed, count):
        self.generator, self.count = torch.Generator().manual_seed(seed), count

    def draw(self):
        return torch.randn(self.count, generator=self.generator, dtype=torch.float64).numpy()


def as_numpy(denoise):
    return lambda x, t: denoise(torch.from_numpy(x), t).numpy()


def slow_steps(schedule, steps):
    total = schedule.timesteps
    grid = [round(total * k / steps) - 1 for k in range(1, steps + 1)]
    return list(zip(grid[::-1], [*grid[:-1][::-1], None], strict=True))


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpm_is_algorithm_2(name, variance, steps):
    schedule = SCHEDULES[name](50)
    model, draws = as_numpy(crooked(schedule)), Recorded(3, 6)
    x = noised(6).numpy()
    for t, s in slow_steps(schedule, steps):
        a_t, a_s = schedule.alpha_bar[t], 1.0 if s is None else schedule.alpha_bar[s]
        alpha = a_t / a_s
        epsilon = (x - np.sqrt(a_t) * model(x, t)) / np.sqrt(1 - a_t)
        x = (x - (1 - alpha) / np.sqrt(1 - a_t) * epsilon) / np.sqrt(alpha)
        if s is not None:
            spread = 1 - alpha if variance == "large" else (1 - a_s) / (1 - a_t) * (1 - alpha)
            x = x + np.sqrt(spread) * draws.draw()
    ours = samplers.ddpm(crooked(schedule), noised(6), schedule, steps, torch.Generator().manual_seed(3), variance)
    np.testing.assert_allclose(ours.numpy(), x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_is_equation_12(name, eta, steps):
    schedule = SCHEDULES[name](50)
    model, draws = as_numpy(crooked(schedule)), Recorded(3, 6)
    x = noised(6).numpy()
    for t, s in slow_steps(schedule, steps):
        a_t, a_s = schedule.alpha_bar[t], 1.0 if s is None else schedule.alpha_bar[s]
        x0 = model(x, t)
        epsilon = (x - np.sqrt(a_t) * x0) / np.sqrt(1 - a_t)
        sigma = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s - sigma**2) * epsilon
        if sigma > 0:
            x = x + sigma * draws.draw()
    ours = samplers.ddim(crooked(schedule), noised(6), schedule, steps, torch.Generator().manual_seed(3), eta)
    np.testing.assert_allclose(ours.numpy(), x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("name", SCHEDULES)
def test_heun_is_algorithm_1(name, steps):
    schedule = SCHEDULES[name](60)
    model = as_numpy(crooked(schedule))

    def denoiser(y, sigma):  # D of the paper
        t = schedule.timestep(sigma)
        return model(y / math.sqrt(1 + sigma**2), t)

    low, high = max(0.002, schedule.sigma(0)), min(80, schedule.sigma(59))
    ends = high ** (1 / 7), low ** (1 / 7)
    levels = [(ends[0] + i / max(steps - 1, 1) * (ends[1] - ends[0])) ** 7 for i in range(steps)] + [0]
    y = noised(6).numpy() * high
    for i in range(steps):
        d = (y - denoiser(y, levels[i])) / levels[i]
        following = y + (levels[i + 1] - levels[i]) * d
        if levels[i + 1] != 0:
            other = (following - denoiser(following, levels[i + 1])) / levels[i + 1]
            following = y + (levels[i + 1] - levels[i]) * (d / 2 + other / 2)
        y = following
    ours = samplers.heun(crooked(schedule), noised(6), schedule, steps)
    np.testing.assert_allclose(ours.numpy(), y, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 9, 50])
@pytest.mark.parametrize("name", SCHEDULES)
def test_dpm_solver_is_algorithm_2(name, steps):
    schedule = SCHEDULES[name](50)
    model = as_numpy(crooked(schedule))
    grid = [t for t, _ in slow_steps(schedule, steps)]
    alpha, sigma = np.sqrt(schedule.alpha_bar[grid]), np.sqrt(1 - schedule.alpha_bar[grid])
    lam = np.log(alpha / sigma)
    x = noised(6).numpy()
    buffer = [model(x, grid[0])]
    for i in range(1, steps):
        h = lam[i] - lam[i - 1]
        if i == 1:
            estimate = buffer[-1]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            estimate = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * estimate
        buffer.append(model(x, grid[i]))
    ours = samplers.dpm_solver(crooked(schedule), noised(6), schedule, steps)
    np.testing.assert_allclose(ours.numpy(), buffer[-1], rtol=1e-6, atol=1e-9)  # the last step ends at the estimate


def affine(name, schedule, steps):
    """Mean and deviation of what a deterministic sampler makes of standard normal noise: it is affine here."""
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    start, end = samplers.sample(declared(name, steps=steps), gaussian(schedule), x, schedule, torch.Generator())
    return start.item(), (end - start).item()


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpm_solver", 1.5)])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_deterministic_sampler_comes_to_the_data_as_its_order_says(name, order, kind):
    schedule = SCHEDULES[kind](1000)
    errors = [abs(affine(name, schedule, steps)[1] - STD) for steps in (10, 20, 40, 80)]
    floor = 2e-3 * STD  # of a discrete schedule, whose first image is not quite clean
    for coarse, fine in pairwise(errors):
        assert fine <= max(coarse / 2**order * 1.35, floor), errors
    assert errors[-1] < 0.08 * STD
    assert affine(name, schedule, 80)[0] == pytest.approx(MEAN, abs=0.02)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_ancestral_sampling_comes_to_the_data(kind, variance):
    """The large choice overrates the variance and the small one underrates it, the less the more steps."""
    schedule, errors = SCHEDULES[kind](1000), []
    for steps in (50, 1000):
        drawn = samplers.sample(
            declared("ddpm", steps=steps, variance=variance),
            gaussian(schedule),
            noised(8000),
            schedule,
            torch.Generator().manual_seed(1),
        )
        assert drawn.mean().item() == pytest.approx(MEAN, abs=0.02)
        errors.append(abs(drawn.std().item() / STD - 1))
    assert errors[1] < 0.03
    assert errors[1] < errors[0] < 0.25


def test_ddim_with_eta_1_is_ancestral_sampling_with_the_small_variance():
    schedule = noise.cosine(100)
    one = samplers.ddim(crooked(schedule), noised(5), schedule, 20, torch.Generator().manual_seed(2), 1.0)
    other = samplers.ddpm(crooked(schedule), noised(5), schedule, 20, torch.Generator().manual_seed(2), "small")
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["ddpm", *DETERMINISTIC])
def test_a_sampler_draws_from_its_generator_alone(name):
    schedule, config = noise.linear(30), declared(name, steps=8)
    before = torch.random.get_rng_state()
    first, same, other = (
        samplers.sample(config, crooked(schedule), noised(5).float(), schedule, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert torch.equal(first, other) == (name in DETERMINISTIC)
    assert first.dtype == torch.float32
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver"])
def test_the_steps_are_counted(name):
    schedule, seen = noise.linear(100), []

    def denoise(x, t):
        seen.append(t)
        return x

    samplers.sample(declared(name, steps=10), denoise, noised(2), schedule, torch.Generator())
    assert seen == list(range(99, 0, -10))
    with pytest.raises(ValueError, match="at most the number of timesteps, 100; got 101"):
        samplers.sample(declared(name, steps=101), denoise, noised(2), schedule, torch.Generator())


def test_ancestral_sampling_takes_every_timestep_unless_told():
    schedule, seen = noise.linear(40), []
    denoise = lambda x, t: seen.append(t) or x  # noqa: E731
    samplers.sample(declared("ddpm"), denoise, noised(2), schedule, torch.Generator())
    assert seen == list(range(39, -1, -1))
    assert CLEAN not in seen
