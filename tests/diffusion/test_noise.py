import math

import numpy as np
import pytest
import torch

from mlml.diffusion import noise
from mlml.diffusion.noise import CLEAN, SCHEDULES, NoiseSchedule

KINDS = ("epsilon", "x0", "v")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [25, 1000])
def test_alpha_bar_is_the_slow_product_and_falls(name, timesteps):
    schedule = SCHEDULES[name](timesteps)
    assert schedule.beta.dtype == schedule.alpha_bar.dtype == np.float64
    assert schedule.timesteps == timesteps
    left = 1.0
    for beta, alpha_bar in zip(schedule.beta, schedule.alpha_bar, strict=True):
        left *= 1 - beta
        assert alpha_bar == pytest.approx(left, rel=1e-12)
    assert (np.diff(schedule.alpha_bar) < 0).all()
    assert schedule.alpha_bar[-1] < 1e-3  # nearly nothing of the image is left


def test_the_linear_schedule_is_the_papers():
    beta = noise.linear(1000).beta
    assert (beta[0], beta[-1]) == (pytest.approx(1e-4), pytest.approx(0.02))
    np.testing.assert_allclose(np.diff(beta), (0.02 - 1e-4) / 999)
    other = noise.linear(100)  # about as much noise in all
    assert math.log(other.alpha_bar[-1]) == pytest.approx(math.log(noise.linear(1000).alpha_bar[-1]), rel=0.2)


def test_the_cosine_schedule_is_the_papers():
    """Their Eq. 17, but for the last betas, which are clipped."""
    alpha_bar = noise.cosine(1000).alpha_bar
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for t in range(990):
        f = math.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        assert alpha_bar[t] == pytest.approx(f / start, rel=1e-9)
    assert noise.cosine(1000).beta.max() == 0.999


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_preserve_variance_and_levels_have_an_inverse(name):
    schedule = SCHEDULES[name](200)
    assert schedule.rates(CLEAN) == (1, 0)
    last = 0.0
    for t in np.arange(0, 199.01, 0.25):
        signal, spread = schedule.rates(t)
        assert signal**2 + spread**2 == pytest.approx(1)
        assert schedule.timestep(schedule.sigma(t)) == pytest.approx(t, abs=1e-6)
        assert schedule.sigma(t) > last
        last = schedule.sigma(t)
    assert schedule.rates(17).signal ** 2 == pytest.approx(schedule.alpha_bar[17])


def test_the_closed_form_is_what_single_steps_lead_to():
    """Eq. 2 step by step against Eq. 4, by the mean and the variance of many draws."""
    schedule, generator = noise.linear(30), torch.Generator().manual_seed(0)
    x = torch.full((200_000,), 1.5, dtype=torch.float64)
    for t in range(30):
        step = torch.randn(len(x), generator=generator, dtype=torch.float64)
        x = math.sqrt(1 - schedule.beta[t]) * x + math.sqrt(schedule.beta[t]) * step
        if t in (3, 14, 29):
            signal, spread = schedule.rates(t)
            assert x.mean().item() == pytest.approx(1.5 * signal, abs=0.01)
            assert x.std().item() == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [0, 11, 99])
def test_every_prediction_leads_back_to_the_image(kind, t):
    x0, epsilon = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rates = noise.linear(100).rates(t)
    x = rates.signal * x0 + rates.noise * epsilon
    prediction = noise.target(kind, x0, epsilon, *rates)
    torch.testing.assert_close(noise.to_x0(kind, prediction, x, *rates), x0)
    torch.testing.assert_close(noise.to_epsilon(x0, x, *rates), epsilon)


def test_the_velocity_is_the_derivative_of_the_path():
    """Salimans & Ho 2022, appendix D: with signal = cos(phi), noise = sin(phi), v is dx / dphi."""
    x0, epsilon = torch.tensor([0.7]).double(), torch.tensor([-1.3]).double()
    phi = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(phi.cos() * x0 + phi.sin() * epsilon, phi)
    v = noise.target("v", x0, epsilon, math.cos(0.6), math.sin(0.6))
    assert v.item() == pytest.approx(slope.item())


@pytest.mark.parametrize("t", [-0.5, -2, 50, 1e9])
def test_other_timesteps_are_refused(t):
    with pytest.raises(ValueError, match="must be -1, or 0 to 49"):
        noise.linear(50).rates(t)


@pytest.mark.parametrize("beta", [[], [0.1, 1.0], [0.0, 0.1]])
def test_betas_out_of_range_are_refused(beta):
    with pytest.raises(ValueError, match="every beta"):
        NoiseSchedule(np.array(beta))


def test_too_few_linear_timesteps_are_refused():
    with pytest.raises(ValueError, match="at least 21; got 20"):
        noise.linear(20)
    assert noise.linear(21).beta.max() < 1
