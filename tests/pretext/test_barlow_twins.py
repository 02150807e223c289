import numpy as np
import pytest
import torch
from gradients import finite_differences
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml import model_folder
from mlml.data.batches import Batch
from mlml.pretext.barlow_twins import barlow_twins, cross_correlation

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [6]}, "train": {"steps": 1}}


def slow_correlation(z0: np.ndarray, z1: np.ndarray) -> np.ndarray:
    """Zbontar et al. 2021, Eq. 2, as loops, on outputs whose mean over the batch is taken off first."""
    n, d = z0.shape
    c = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            product, first, second = 0.0, 0.0, 0.0
            for b in range(n):
                a, other = z0[b, i] - z0[:, i].mean(), z1[b, j] - z1[:, j].mean()
                product += a * other
                first += a**2
                second += other**2
            c[i, j] = product / (np.sqrt(first + n * 1e-5) * np.sqrt(second + n * 1e-5))
    return c


def slow_terms(z0: np.ndarray, z1: np.ndarray) -> tuple[float, float]:
    """Both sums of Eq. 1."""
    c = slow_correlation(z0, z1)
    d = len(c)
    invariance = sum((1 - c[i, i]) ** 2 for i in range(d))
    return invariance, sum(c[i, j] ** 2 for i in range(d) for j in range(d) if j != i)


def drawn(n, d, seed):
    noise = torch.randn(3, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    views = 1 + noise[0] + 0.5 * noise[1], noise[0] + 0.5 * noise[2]
    return [view.float().double() for view in views]  # as the loss will see them


@settings(max_examples=30)
@given(n=st.integers(3, 6), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_it_equals_the_paper(n, d, seed):
    z0, z1 = drawn(n, d, seed)
    np.testing.assert_allclose(cross_correlation(z0, z1), slow_correlation(z0.numpy(), z1.numpy()), rtol=0, atol=1e-5)
    terms = [float(term) for term in barlow_twins(z0, z1)]
    assert terms == pytest.approx(slow_terms(z0.numpy(), z1.numpy()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("weight", [0.005, 1.0])
def test_the_gradient_is_that_of_the_paper(weight):
    z = [view.requires_grad_() for view in drawn(5, 3, 0)]
    terms = barlow_twins(*z)
    (terms.invariance + weight * terms.redundancy).backward()

    def slow(a, b):
        invariance, redundancy = slow_terms(a, b)
        return invariance + weight * redundancy

    for view, gradient in zip(z, finite_differences(slow, [view.detach().numpy() for view in z]), strict=True):
        np.testing.assert_allclose(view.grad.numpy(), gradient, rtol=1e-4, atol=1e-5)


def test_closed_form_of_outputs_that_are_independent_or_all_the_same():
    independent = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert [float(term) for term in barlow_twins(independent, independent)] == pytest.approx([0, 0], abs=1e-6)
    same = independent[:, :1].repeat(1, 3)
    assert [float(term) for term in barlow_twins(same, same)] == pytest.approx([0, 6], rel=1e-4, abs=1e-6)
    assert [float(term) for term in barlow_twins(torch.ones(4, 3), same)] == [3, 0]  # collapsed


def test_half_precision_leaves_the_loss_in_float32():
    z0, z1 = (view.float() for view in drawn(32, 8, 0))
    with torch.autocast("cpu", torch.bfloat16):
        shortened = barlow_twins(z0, z1)
    for ours, whole in zip(shortened, barlow_twins(z0, z1), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=0)


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="at least 2 images for a correlation; got 1"):
        barlow_twins(torch.ones(1, 2), torch.ones(1, 2))


def test_loss_and_projector_are_the_declared_ones(blob_data):
    numbers = {"redundancy_weight": 0.3, "loss_scale": 0.5}
    method = model_folder.build("pretext", "barlow_twins", {**CONFIG, **numbers}, blob_data.spec)
    assert [layer.out_features for layer in method.projector if isinstance(layer, torch.nn.Linear)] == [24, 24, 24]
    batch = method.augment(Batch(torch.rand(8, 1, 8, 8), None), torch.Generator().manual_seed(0))
    with torch.no_grad():
        z0, z1 = (method.projector(method.encoder(view)) for view in batch)
        invariance, redundancy = slow_terms(z0.double().numpy(), z1.double().numpy())
        output = method(batch, "train")
    assert float(output.loss) == pytest.approx(0.5 * (invariance + 0.3 * redundancy), rel=1e-4)
