"""Metrics against closed forms, SciPy, and slow loops of NumPy over the formulas."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlml import metrics

CASES = settings(max_examples=40, deadline=None)
FEATURES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(7, 20), st.integers(1, 5)),
    elements=st.floats(-10, 10, allow_subnormal=False).map(lambda value: round(value, 2)),
)


def drawn(count, width, seed, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, width)) @ rng.standard_normal((width, width))
    return torch.from_numpy(scale * mixed + shift)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """So that every function meets an end of a chunk."""
    monkeypatch.setattr(metrics, "CHUNK", 7)


def test_moments_of_parts_are_those_of_the_whole():
    features = drawn(50, 4, 0).float() + 1000  # single precision in, double inside
    mean, covariance = features.double().mean(0), torch.cov(features.double().T)
    found = metrics.moments(features.split([1, 30, 19]))
    assert found.num_rows == 50
    torch.testing.assert_close(found.mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.covariance, covariance, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="at least two images; got 1"):
        metrics.moments([features[:1]])


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    mean = torch.tensor([[0.0, 1.0, -2.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
    deviation = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 1.0]], dtype=torch.float64)  # one without rank
    one, other = (metrics.Moments(9, m, torch.diag(s.square())) for m, s in zip(mean, deviation, strict=True))
    expected = (0.25 + 0 + 25) + (4 + 2.25 + 1)  # |m - m'|^2 + |s - s'|^2
    assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [40, 4])  # of width 6: with 4 the covariances lack rank
def test_fid_is_that_of_scipys_root(count):
    real, generated = drawn(count, 6, 1), drawn(count + 1, 6, 2, scale=2.0, shift=0.5)
    x, y = real.numpy(), generated.numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second - 2 * np.real(root))
    assert metrics.fid(real, generated) == pytest.approx(expected, rel=1e-6)


@CASES
@given(FEATURES, st.integers(0, 2**32 - 1))
def test_fid_is_a_distance(features, seed):
    features, other = torch.from_numpy(features), drawn(12, features.shape[1], seed)
    scale = 1 + features.var(0).sum().item()
    assert metrics.fid(features, features) == pytest.approx(0, abs=1e-9 * scale)
    there, back = metrics.fid(features, other), metrics.fid(other, features)
    assert there == pytest.approx(back, rel=1e-9, abs=1e-9 * scale)
    assert there > -1e-9 * scale


def test_the_extrapolated_fid_is_nearer_to_that_of_the_distributions(monkeypatch):
    """The bias of a finite number of generated images goes; the real ones are so many that theirs is small."""
    monkeypatch.setattr(metrics, "CHUNK", 4096)
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.standard_normal((40_000, 16)))
    generated = torch.from_numpy(rng.standard_normal((500, 16)))
    plain = metrics.fid(real, generated)
    found = metrics.fid_infinity(real, generated, torch.Generator().manual_seed(0))
    assert plain > 0.05  # of one distribution
    assert abs(found) < 0.5 * plain
    assert found == metrics.fid_infinity(real, generated, torch.Generator().manual_seed(0))


def test_the_extrapolation_reads_a_line_at_nothing(monkeypatch):
    """Of values that are a + b / n, it is a, whatever the points."""
    monkeypatch.setattr(metrics, "frechet_distance", lambda _, second: 3.0 + 40 / second.num_rows)
    found = metrics.fid_infinity(drawn(9, 2, 0), drawn(50, 2, 1), torch.Generator().manual_seed(0), num_points=4)
    assert found == pytest.approx(3.0, rel=1e-12)
    with pytest.raises(ValueError, match="needs 10 images and 2 points; got 9 and 15"):
        metrics.fid_infinity(drawn(9, 2, 0), drawn(9, 2, 0), torch.Generator())


def test_kid_is_the_unbiased_mmd_by_a_loop():
    real, generated = drawn(9, 3, 3), drawn(16, 3, 4, shift=0.3)
    x, y = real.numpy(), generated.numpy()

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

    total = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (9 * 8)
    total += sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (16 * 15)
    total -= 2 * sum(kernel(a, b) for a in x for b in y) / (9 * 16)
    assert metrics.kid(real, generated) == pytest.approx(total, rel=1e-12)
    assert metrics.kid(generated, real) == pytest.approx(total, rel=1e-12)
    with pytest.raises(ValueError, match="two images of each kind; got 1 and 16"):
        metrics.kid(real[:1], generated)


def test_the_inception_score_is_its_formula():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 10)
    p[0] = [0, 1, 0, 0]  # 0 log 0
    marginal = p.mean(0)
    divergences = [sum(a * math.log(a / b) for a, b in zip(row, marginal, strict=True) if a > 0) for row in p]
    found = metrics.inception_score(torch.from_numpy(p))
    assert found == pytest.approx(math.exp(sum(divergences) / 10), rel=1e-12)
    assert metrics.inception_score(torch.eye(5)) == pytest.approx(5)  # sure of each, and of all as often
    assert metrics.inception_score(torch.full((7, 5), 0.2)) == pytest.approx(1)


def overlap_by_loops(x, y, k_recall, k_coverage):
    def radius(points, i, k):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    def balls(centres, points, k):
        """Whether each ball of a centre (rows) holds each point."""
        return np.array(
            [[np.linalg.norm(c - p) <= radius(centres, i, k) for p in points] for i, c in enumerate(centres)]
        )

    precise, reached, wide = balls(x, y, k_recall), balls(y, x, k_recall), balls(x, y, k_coverage)
    return (
        precise.any(0).mean(),
        reached.any(0).mean(),
        wide.sum() / (k_coverage * len(y)),
        wide.any(1).mean(),
    )


@pytest.mark.parametrize("ks", [(3, 5), (2, 1)])
def test_the_overlap_is_that_of_loops(ks):
    real, generated = drawn(17, 3, 5), drawn(23, 3, 6, scale=0.6, shift=1.0)
    found, expected = metrics.overlap(real, generated, *ks), overlap_by_loops(real.numpy(), generated.numpy(), *ks)
    assert tuple(found) == pytest.approx(expected, abs=1e-12)
    assert len({round(value, 6) for value in found}) == 4  # no two of them could be exchanged unseen


@CASES
@given(FEATURES)
def test_a_set_covers_itself(features):
    features = torch.from_numpy(features)
    found = metrics.overlap(features, features)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density >= 1
    far = metrics.overlap(features, features + 1000)
    assert tuple(far) == (0, 0, 0, 0)


def test_too_few_for_their_neighbours():
    with pytest.raises(ValueError, match="more than 5 images of each kind; got 9 and 5"):
        metrics.overlap(drawn(9, 2, 0), drawn(5, 2, 0))


def ssim_by_loops(x, y, window):
    """Eq. 13 of the paper over every window of one channel."""
    half = window // 2
    grid = np.arange(window) - half
    weights = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(half, x.shape[0] - half):
        for column in range(half, x.shape[1] - half):
            place = (slice(row - half, row + half + 1), slice(column - half, column + half + 1))
            a, b = x[place], y[place]
            mu_a, mu_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mu_a) ** 2).sum(), (weights * (b - mu_b) ** 2).sum()
            cov = (weights * (a - mu_a) * (b - mu_b)).sum()
            light = (2 * mu_a * mu_b + 1e-4) / (mu_a**2 + mu_b**2 + 1e-4)
            values.append(light * (2 * cov + 9e-4) / (var_a + var_b + 9e-4))
    return np.mean(values)


@pytest.mark.parametrize(("size", "window"), [((14, 17), 11), ((8, 8), 7)])
def test_ssim_is_that_of_loops(size, window):
    x = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0))
    y = (0.6 * x + 0.4 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    found = metrics.ssim(x, y, window)
    for image, again, value in zip(x.double().numpy(), y.double().numpy(), found, strict=True):
        expected = np.mean([ssim_by_loops(a, b, window) for a, b in zip(image, again, strict=True)])
        assert value.item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(metrics.ssim(x, x, window), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("window", [4, 9])
def test_a_window_that_does_not_fit_is_refused(window):
    with pytest.raises(ValueError, match=f"odd and fit in images of 8 x 8 pixels; got {window}"):
        metrics.ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), window)


def test_errors_of_pixels():
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    y[0, 0, 0, 0], y[1] = 0.2, 0.1
    torch.testing.assert_close(metrics.squared_error(x, y), torch.tensor([0.01, 0.01]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(metrics.psnr(x, y), torch.tensor([20.0, 20.0]).double(), rtol=1e-6, atol=0)
    assert metrics.psnr(x, x).isinf().all()


def test_bits_of_a_uniform_density_are_all_eight():
    assert metrics.bits_per_dimension(0.0, 64) == 8
    # density 2 in each of 3 dimensions: half of the levels can be left out
    assert metrics.bits_per_dimension(3 * math.log(2), 3) == pytest.approx(7)
