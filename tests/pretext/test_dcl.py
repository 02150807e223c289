import math

import numpy as np
import pytest
import torch
from gradients import finite_differences
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml.declaration import resolve
from mlml.pretext.dcl import dcl


def slow_dcl(z0: np.ndarray, z1: np.ndarray, temperature: float, sigma: float | None) -> float:
    """Yeh et al. 2022, the loss L_DC, and L_DCW where there is a sigma, as loops."""
    z, n = (z0, z1), len(z0)

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    def weight(i: int) -> float:
        if sigma is None:
            return 1.0
        mean = sum(math.exp(similarity(z0[j], z1[j]) / sigma) for j in range(n)) / n
        return 2 - math.exp(similarity(z0[i], z1[i]) / sigma) / mean

    total = 0.0
    for k in range(2):
        for i in range(n):
            negatives = 0.0
            for other in range(2):
                for j in range(n):
                    if j != i:
                        negatives += math.exp(similarity(z[k][i], z[other][j]) / temperature)
            total += math.log(negatives) - weight(i) * similarity(z0[i], z1[i]) / temperature
    return total / (2 * n)


def drawn(n, d, seed):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SIGMAS = [None, 0.5, 2.0]


@settings(max_examples=30)
@given(
    n=st.integers(2, 6),
    d=st.integers(1, 7),
    temperature=st.floats(0.1, 2),
    sigma=st.sampled_from(SIGMAS),
    seed=st.integers(0, 99),
)
def test_it_equals_the_paper(n, d, temperature, sigma, seed):
    z0, z1 = drawn(n, d, seed)
    expected = slow_dcl(z0.numpy(), z1.numpy(), temperature, sigma)
    assert float(dcl(z0, z1, temperature, sigma)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gradient_is_that_of_the_paper(sigma):
    z = [view.clone().requires_grad_() for view in drawn(3, 4, 0)]
    dcl(*z, 0.5, sigma).backward()
    expected = finite_differences(lambda a, b: slow_dcl(a, b, 0.5, sigma), [view.detach().numpy() for view in z])
    for view, gradient in zip(z, expected, strict=True):
        np.testing.assert_allclose(view.grad.numpy(), gradient, rtol=1e-5, atol=1e-5)


def test_closed_form_of_orthogonal_pairs():
    """Equal views, orthogonal images: 2(n - 1) negatives at similarity 0, and weights of 1."""
    z = torch.eye(4)
    for sigma in SIGMAS:
        assert float(dcl(z, z, 0.5, sigma)) == pytest.approx(math.log(6) - 1 / 0.5, rel=1e-6)


def test_half_precision_leaves_the_loss_in_float32():
    z0, z1 = drawn(8, 16, 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        shortened = dcl(z0, z1, 0.1, 0.5)
    torch.testing.assert_close(shortened, dcl(z0, z1, 0.1, 0.5), rtol=1e-5, atol=1e-6)


def test_refusals():
    pair = torch.ones(2, 2)
    with pytest.raises(ValueError, match="at least 2 images for negatives; got 1"):
        dcl(pair[:1], pair[:1], 0.5)
    with pytest.raises(ValueError, match="temperature must be > 0; got 0"):
        dcl(pair, pair, 0)
    with pytest.raises(ValueError, match="sigma must be > 0, or null for DCL; got 0"):
        dcl(pair, pair, 0.5, 0)


def test_dclw_is_declared_by_its_sigma():
    entry = {"method": "dcl", "dataset": "blobs", "encoder": {"network": "mlp"}, "train": {"steps": 1}}
    assert resolve("pretext", "dcl", entry).config.sigma is None
    assert resolve("pretext", "dclw", {**entry, "sigma": 0.5}).config.sigma == 0.5
