import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlml.pretext.simclr import nt_xent


def slow_nt_xent(z0: np.ndarray, z1: np.ndarray, temperature: float) -> float:
    """Chen et al. 2020, Eq. 1 and Algorithm 1, as loops."""
    z = np.concatenate([z0, z1])
    n = len(z0)

    def similarity(i: int, j: int) -> float:
        return z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j]))

    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(math.exp(similarity(i, k) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(similarity(i, j) / temperature) / denominator)
    return total / (2 * n)


@given(n=st.integers(2, 7), d=st.integers(1, 9), temperature=st.floats(0.05, 2), seed=st.integers(0, 99))
def test_it_equals_the_paper(n, d, temperature, seed):
    z0, z1 = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    assert float(nt_xent(z0, z1, temperature)) == pytest.approx(
        slow_nt_xent(z0.double().numpy(), z1.double().numpy(), temperature), rel=1e-4, abs=1e-5
    )


@given(seed=st.integers(0, 99))
def test_symmetric_in_views_and_equivariant_in_images(seed):
    z0, z1 = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(nt_xent(z0, z1, 0.5), nt_xent(z1, z0, 0.5))
    torch.testing.assert_close(nt_xent(z0, z1, 0.5), nt_xent(z0[order], z1[order], 0.5))


def test_closed_form_of_orthogonal_pairs():
    """Equal views, orthogonal images: each anchor sees e^(1/t) against 2(n - 1) ones."""
    z = torch.eye(4)
    expected = math.log(math.exp(1 / 0.5) + 6) - 1 / 0.5
    assert float(nt_xent(z, z, 0.5)) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_that_of_the_slow_loss():
    z0, z1 = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z0.requires_grad_()
    nt_xent(z0, z1, 0.5).backward()
    step = 1e-3
    for row, column in np.ndindex(3, 4):
        ends = []
        for sign in (1, -1):
            moved = z0.detach().numpy().copy()
            moved[row, column] += sign * step
            ends.append(slow_nt_xent(moved, z1.numpy(), 0.5))
        assert float(z0.grad[row, column]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-4)


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 images"):
        nt_xent(torch.ones(1, 2), torch.ones(1, 2), 0.5)
    with pytest.raises(ValueError, match="temperature must be > 0; got 0"):
        nt_xent(torch.ones(2, 2), torch.ones(2, 2), 0)
