import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlml import model_folder
from mlml.data.augment import Views
from mlml.pretext.simsiam import negative_cosine

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [8]}, "train": {"steps": 1}}


def slow_loss(p: np.ndarray, z: np.ndarray) -> float:
    """Chen & He 2021, Eq. 1, as loops."""
    n, d = p.shape
    total = 0.0
    for k in range(n):
        product = sum(p[k, j] * z[k, j] for j in range(d))
        lengths = [math.sqrt(sum(row[j] ** 2 for j in range(d))) for row in (p[k], z[k])]
        total -= product / (lengths[0] * lengths[1])
    return total / n


@settings(max_examples=25)
@given(n=st.integers(1, 7), d=st.integers(1, 9), seed=st.integers(0, 99))
def test_it_equals_the_paper(n, d, seed):
    p, z = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed))
    expected = slow_loss(p.double().numpy(), z.double().numpy())
    assert float(negative_cosine(p, z)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_is_that_of_the_slow_loss_and_none_goes_into_the_target():
    p, z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p.requires_grad_()
    z.requires_grad_()
    negative_cosine(p, z).backward()
    step = 1e-5
    for row, column in np.ndindex(3, 4):
        ends = []
        for sign in (1, -1):
            moved = p.detach().numpy().copy()
            moved[row, column] += sign * step
            ends.append(slow_loss(moved, z.detach().numpy()))
        assert float(p.grad[row, column]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)
    assert z.grad is None


def test_the_branch_that_is_predicted_gets_no_gradient(blob_data):
    """Chen & He 2021, section 4.1: with one, all images come to the same point.

    The gradient is that of a loss whose targets are numbers, computed beforehand.
    """
    method = model_folder.build("pretext", "simsiam", CONFIG, blob_data.spec).eval()
    first, second = torch.rand(2, 5, 1, 8, 8)
    with torch.no_grad():
        targets = [method.projector(method.encoder(view)) for view in (first, second)]
    predicted = [method.predictor(method.projector(method.encoder(view))) for view in (first, second)]
    cosine = nn.functional.cosine_similarity
    expected = -(cosine(predicted[0], targets[1]).mean() + cosine(predicted[1], targets[0]).mean()) / 2
    wanted = torch.autograd.grad(expected, list(method.parameters()))
    loss = method(Views(first, second), "train").loss
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(loss, list(method.parameters())), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_heads_are_as_wide_as_the_papers_in_proportion_to_the_features(blob_data):
    method = model_folder.build("pretext", "simsiam", CONFIG, blob_data.spec)
    projector = [layer for layer in method.projector if isinstance(layer, nn.Linear)]
    predictor = [layer for layer in method.predictor if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in projector] == [8, 8, 8]
    assert [layer.out_features for layer in predictor] == [2, 8]
    assert isinstance(method.projector[-1], nn.BatchNorm1d)
    assert not method.projector[-1].affine
    assert isinstance(method.predictor[-1], nn.Linear)
