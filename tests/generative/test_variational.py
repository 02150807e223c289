"""The pieces that variational autoencoders share, against torch, NumPy and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from mlml.generative._variational import (
    draw,
    importance_weighted_bound,
    kl_per_dimension,
    log_constant,
    log_likelihood_of_pixels,
    log_normal,
    warmed_up,
)


@pytest.fixture
def moments():
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


def test_kl_equals_torch(moments):
    mu, log_var = moments
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0, 1))
    torch.testing.assert_close(kl_per_dimension(mu, log_var), expected)
    assert kl_per_dimension(torch.zeros(1, 4), torch.zeros(1, 4)).abs().sum() == 0


def test_log_normal_equals_torch(moments):
    mu, log_var = moments
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    expected = Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum(1)
    torch.testing.assert_close(log_normal(z, mu, log_var), expected)


def test_a_draw_has_the_mean_and_the_variance():
    mu, log_var = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    noise = torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    z = draw(mu.expand(20000, 2), log_var.expand(20000, 2), noise)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(0), log_var[0].exp(), atol=0.05, rtol=0)


def test_a_gaussian_likelihood_is_a_normal_density_of_variance_one_half():
    logits, images = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).sigmoid()
    expected = Normal(logits.sigmoid(), 0.5**0.5).log_prob(images).flatten(1).sum(1)
    told = log_likelihood_of_pixels(logits, images, "gaussian") + log_constant(48, "gaussian")
    torch.testing.assert_close(told, expected)


def test_a_bernoulli_likelihood_of_black_and_white_pixels_is_a_probability():
    """Over all images of four pixels it sums to 1."""
    logits = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(0)).expand(16, 1, 2, 2)
    images = torch.tensor([[(k >> bit) & 1 for bit in range(4)] for k in range(16)]).float().view(16, 1, 2, 2)
    told = log_likelihood_of_pixels(logits, images, "bernoulli") + log_constant(4, "bernoulli")
    assert told.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_the_bound_is_the_log_of_the_mean_weight():
    parts = np.random.default_rng(0).normal(size=(3, 7, 5))
    expected = np.log(np.mean(np.exp(parts[0] + parts[1] - parts[2]), 0))
    told = importance_weighted_bound(*(torch.from_numpy(part) for part in parts))
    np.testing.assert_allclose(told.numpy(), expected)


def test_the_bound_stands_weights_that_no_float_holds():
    far = torch.full((3, 2), -1e4)
    assert importance_weighted_bound(far, torch.zeros(3, 2), torch.zeros(3, 2)).tolist() == [-1e4, -1e4]


@given(st.floats(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_the_weight_stays_between_0_and_beta_and_ends_there(beta, warmup, progress):
    assert 0 <= warmed_up(beta, warmup, progress) <= beta
    assert warmed_up(beta, warmup, 1.0) == beta
    assert warmed_up(beta, warmup, 0.0) == (0 if warmup else beta)
    assert warmed_up(beta, 0.5, 0.25) == beta / 2
