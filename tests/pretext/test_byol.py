import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml import model_folder
from mlml.data.batches import Batch
from mlml.data.color import solarise
from mlml.pretext.byol import regression_loss

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [6]}, "train": {"steps": 1}}


def slow_loss(prediction: np.ndarray, target: np.ndarray) -> float:
    """Grill et al. 2020, Eq. 2, as loops: the squared distance of two points of the sphere."""
    n, d = prediction.shape
    total = 0.0
    for k in range(n):
        q_length = math.sqrt(sum(prediction[k, j] ** 2 for j in range(d)))
        z_length = math.sqrt(sum(target[k, j] ** 2 for j in range(d)))
        for j in range(d):
            total += (prediction[k, j] / q_length - target[k, j] / z_length) ** 2
    return total / n


@settings(max_examples=25)
@given(n=st.integers(1, 7), d=st.integers(1, 9), seed=st.integers(0, 99))
def test_it_equals_the_paper(n, d, seed):
    q, z = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed))
    expected = slow_loss(q.double().numpy(), z.double().numpy())
    assert float(regression_loss(q, z)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_is_that_of_the_slow_loss_and_none_goes_into_the_target():
    q, z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q.requires_grad_()
    z.requires_grad_()
    regression_loss(q, z).backward()
    step = 1e-5
    for row, column in np.ndindex(3, 4):
        ends = []
        for sign in (1, -1):
            moved = q.detach().numpy().copy()
            moved[row, column] += sign * step
            ends.append(slow_loss(moved, z.detach().numpy()))
        assert float(q.grad[row, column]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)
    assert z.grad is None


def test_the_loss_is_symmetric_in_the_views_and_uses_the_target(blob_data):
    method = model_folder.build("pretext", "byol", CONFIG, blob_data.spec).eval()
    torch.manual_seed(1)
    for parameter in method.target.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = method.augment(Batch(torch.rand(5, 1, 8, 8), torch.zeros(5)), torch.Generator())
    q = [method.predictor(method.projector(method.encoder(view))).detach().double().numpy() for view in batch]
    z = [method.target(view).double().numpy() for view in batch]
    expected = slow_loss(q[0], z[1]) + slow_loss(q[1], z[0])
    assert float(method(batch, "train").loss) == pytest.approx(expected, rel=1e-4)
    swapped = method(type(batch)(batch.second, batch.first), "train").loss
    assert float(swapped) == pytest.approx(expected, rel=1e-4)


def test_the_target_follows_the_online_network_by_the_schedule(blob_data):
    method = model_folder.build("pretext", "byol", {**CONFIG, "momentum": 0.8}, blob_data.spec)
    before = [parameter.clone() for parameter in method.target.parameters()]
    online = [*method.encoder.parameters(), *method.projector.parameters()]
    for parameter in online:
        parameter.data += 1
    method.after_step(0.25)
    tau = 1 - 0.2 * (math.cos(math.pi / 4) + 1) / 2
    for xi, then, theta in zip(method.target.parameters(), before, online, strict=True):
        torch.testing.assert_close(xi, tau * then + (1 - tau) * theta.detach(), rtol=1e-5, atol=1e-6)


def test_the_views_are_augmented_unlike(blob_data):
    plain = {
        "crop_scale": [1, 1],
        "crop_ratio": [1, 1],
        "flip_prob": 0,
        "jitter_prob": 0,
        "grey_prob": 0,
        "blur_prob": 0,
    }
    views = {"first": plain, "second": {**plain, "solarise_prob": 1, "solarise_threshold": 0.5}}
    method = model_folder.build("pretext", "byol", {**CONFIG, **views}, blob_data.spec)
    images = torch.rand(5, 1, 8, 8)
    first, second = method.augment(Batch(images, torch.zeros(5)), torch.Generator())
    torch.testing.assert_close(first, images)
    expected = solarise(images, torch.full((5,), 0.5), torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(second, expected)
    assert not torch.allclose(first, second)


def test_evaluation_moves_nothing(blob_data):
    method = model_folder.build("pretext", "byol", CONFIG, blob_data.spec).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    batch = method.augment(Batch(torch.rand(5, 1, 8, 8), torch.zeros(5)), torch.Generator())
    method(batch, "train")
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key
