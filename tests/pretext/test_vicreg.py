import numpy as np
import pytest
import torch
from gradients import finite_differences
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml import model_folder
from mlml.data.batches import Batch
from mlml.pretext.vicreg import vicreg

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [6]}, "train": {"steps": 1}}


def slow_terms(z0: np.ndarray, z1: np.ndarray, gamma: float) -> tuple[float, float, float]:
    """Bardes et al. 2022, Eq. 1 to 5, as loops; Eq. 5 over d."""
    n, d = z0.shape
    invariance, variance, covariance = 0.0, 0.0, 0.0
    for i in range(n):
        for j in range(d):
            invariance += (z0[i, j] - z1[i, j]) ** 2 / (n * d)
    for z in (z0, z1):
        mean = z.mean(0)
        for i in range(d):
            for j in range(d):
                c = sum((z[b, i] - mean[i]) * (z[b, j] - mean[j]) for b in range(n)) / (n - 1)
                if i == j:
                    variance += max(0.0, gamma - np.sqrt(c + 1e-4)) / d
                else:
                    covariance += c**2 / d
    return invariance, variance, covariance


def drawn(n, d, seed, scale=0.7):
    return scale * torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


@settings(max_examples=30)
@given(n=st.integers(2, 6), d=st.integers(1, 6), gamma=st.floats(0.2, 2), seed=st.integers(0, 99))
def test_it_equals_the_paper(n, d, gamma, seed):
    z0, z1 = drawn(n, d, seed)
    terms = [float(term) for term in vicreg(z0, z1, gamma)]
    assert terms == pytest.approx(slow_terms(z0.numpy(), z1.numpy(), gamma), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("term", [0, 1, 2])
def test_the_gradient_of_each_term_is_that_of_the_paper(term):
    z = [view.clone().requires_grad_() for view in drawn(5, 3, 0)]
    vicreg(*z)[term].backward()
    expected = finite_differences(lambda a, b: slow_terms(a, b, 1.0)[term], [view.detach().numpy() for view in z])
    assert max(abs(gradient).max() for gradient in expected) > 1e-2
    for view, gradient in zip(z, expected, strict=True):
        np.testing.assert_allclose(view.grad.numpy(), gradient, rtol=1e-4, atol=1e-5)


def test_closed_form_of_outputs_that_are_independent_or_collapsed():
    independent = 2 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # deviations 2 sqrt(4 / 3), above gamma
    assert [float(term) for term in vicreg(independent, independent)] == [0, 0, 0]
    collapsed = torch.ones(4, 2)
    assert [float(term) for term in vicreg(collapsed, collapsed)] == pytest.approx([0, 2 * 0.99, 0])


def test_half_precision_leaves_the_loss_in_float32():
    z0, z1 = drawn(32, 8, 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        shortened = vicreg(z0, z1)
    for ours, whole in zip(shortened, vicreg(z0, z1), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=0)


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="at least 2 images for a variance; got 1"):
        vicreg(torch.ones(1, 2), torch.ones(1, 2))


def test_loss_and_expander_are_the_declared_ones(blob_data):
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0, "gamma": 1.5}
    method = model_folder.build("pretext", "vicreg", {**CONFIG, **weights, "expander_dim": 10}, blob_data.spec)
    assert [layer.out_features for layer in method.expander if isinstance(layer, torch.nn.Linear)] == [10, 10, 10]
    batch = method.augment(Batch(torch.rand(8, 1, 8, 8), None), torch.Generator().manual_seed(0))
    with torch.no_grad():
        z0, z1 = (method.expander(method.encoder(view)).double().numpy() for view in batch)
        output = method(batch, "train")
    terms = slow_terms(z0, z1, 1.5)
    assert float(output.loss) == pytest.approx(2 * terms[0] + 3 * terms[1] + 5 * terms[2], rel=1e-4)
