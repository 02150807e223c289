import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from mlml.losses import LOSSES
from mlml.supervised.classifier import Classifier

TRAIN = {"train": {"steps": 1}, "encoder": {"network": "mlp"}}


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 5, dtype=torch.float64, generator=generator) * 3
    return scores, torch.randint(5, (12,), generator=generator)


def slow(scores, labels, of_example):
    return np.array([of_example(row, label) for row, label in zip(scores.numpy(), labels.tolist(), strict=True)])


def targets(label, smoothing):
    return np.eye(5)[label] * (1 - smoothing) + smoothing / 5


def log_softmax(row):
    return row - math.log(np.exp(row).sum())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "cross_entropy": lambda row, t: -(t * log_softmax(row)).sum(),
    "mse": lambda row, t: ((row - t) ** 2).mean(),
    "bce": lambda row, t: -(t * np.log(sigmoid(row)) + (1 - t) * np.log(1 - sigmoid(row))).mean(),
}


def test_what_can_be_declared_is_known():
    for name in LOSSES:
        assert Classifier.Config.model_validate({**TRAIN, "loss": name}).loss == name
    with pytest.raises(ValidationError):
        Classifier.Config.model_validate({**TRAIN, "loss": "hnige"})


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", FORMULAS)
def test_losses_are_their_formulas(scored, name, smoothing):
    scores, labels = scored
    wanted = slow(scores, labels, lambda row, label: FORMULAS[name](row, targets(label, smoothing)))
    np.testing.assert_allclose(LOSSES[name](scores, labels, smoothing).numpy(), wanted, rtol=1e-10)


def test_the_hinge_is_its_formula(scored):
    scores, labels = scored

    def hinge(row, y):
        return sum(max(0.0, 1 - row[y] + row[j]) for j in range(5) if j != y) / 5

    np.testing.assert_allclose(LOSSES["hinge"](scores, labels, 0.0).numpy(), slow(scores, labels, hinge), rtol=1e-12)


def test_the_hinge_is_0_beyond_the_margin():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.5, 1.0]])
    assert LOSSES["hinge"](scores, torch.tensor([0, 0]), 0.0).tolist() == [0.0, pytest.approx(0.5 / 3)]


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_the_perceptron_learns_by_rosenblatts_rule(scored, rate):
    """Example by example, against the rule as it is written: what fires and should not, loses the inputs."""
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(60, 4, generator=generator, dtype=torch.float64), torch.arange(60) % 3
    weights = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    rule = np.zeros((3, 4))
    for x, label in zip(inputs, labels, strict=True):
        LOSSES["perceptron"](x[None] @ weights.T, label[None], 0.0).mean().backward()
        with torch.no_grad():
            weights -= rate * weights.grad
            weights.grad = None
        for unit in range(3):
            fires = rule[unit] @ x.numpy() >= 0
            rule[unit] += rate * (int(unit == label) - int(fires)) * x.numpy()
    np.testing.assert_allclose(weights.detach().numpy(), rule, rtol=1e-12)
    assert np.abs(rule).max() > 0.1


def test_the_perceptron_counts_only_what_is_wrong():
    scores = torch.tensor([[2.0, -1.0, -3.0], [-2.0, 0.5, -3.0]])
    assert LOSSES["perceptron"](scores, torch.tensor([0, 0]), 0.0).tolist() == [0.0, 2.5]


def test_the_mean_has_the_gradient_of_torchs_own(scored):
    scores, labels = scored
    mine, theirs = (scores.clone().requires_grad_() for _ in range(2))
    LOSSES["cross_entropy"](mine, labels, 0.1).mean().backward()
    F.cross_entropy(theirs, labels, label_smoothing=0.1).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", ["hinge", "perceptron"])
def test_smoothing_of_hard_labels_is_refused(loss):
    with pytest.raises(ValidationError, match=rf"label_smoothing must be 0 with the loss '{loss}'; got 0\.1"):
        Classifier.Config.model_validate({**TRAIN, "loss": loss, "label_smoothing": 0.1})
