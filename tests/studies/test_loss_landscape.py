"""Slices of the loss: a parabola where it must be one, by hand where weights are few, and nothing left changed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_learning_curve import CPU

from mlml import figures, model_folder
from mlml.data.batches import split_batches
from mlml.declaration import resolve
from mlml.seeds import seed_everything
from mlml.studies._subject import Subject
from mlml.studies.loss_landscape import (
    LossLandscape,
    filter_normalised,
    line_plot,
    plane_plot,
    sentences,
    shape,
    slices,
)
from mlml.train import evaluate

OFFSETS = np.linspace(-1, 1, 11)


def subject(data, network, loss="cross_entropy", seeds=(0,)):
    entry = {"method": "classifier", "dataset": "blobs", "encoder": network, "loss": loss, "train": {"steps": 1}}
    config = resolve("supervised", "blob", entry).config

    def build(seed):
        seed_everything(seed, "init")
        return model_folder.build("supervised", "classifier", config, data.spec).eval()

    def no_training(*_):
        raise AssertionError("a landscape trains nothing")

    return Subject("blob", config, "labels", seeds, data, CPU, build, build, no_training, no_training, Path())


def test_filters_of_a_direction_have_the_norms_of_the_weights(blob_data):
    weights = [torch.randn(5, 3), torch.randn(4, 2, 3, 3), torch.randn(7), torch.tensor(2.0)]
    direction = filter_normalised(weights, [0, 0, 0, 0], torch.Generator().manual_seed(0))
    for weight, part in zip(weights[:2], direction[:2], strict=True):
        for own, drawn in zip(weight, part, strict=True):
            assert float(drawn.norm()) == pytest.approx(float(own.norm()), rel=1e-5)
            assert not torch.allclose(drawn, own)
    assert not direction[2].any()
    assert not direction[3].any()
    (part,) = filter_normalised(weights[1:2], [1], torch.Generator().manual_seed(0))
    for own, drawn in zip(weights[1].unbind(1), part.unbind(1), strict=True):
        assert float(drawn.norm()) == pytest.approx(float(own.norm()), rel=1e-5)


def test_slices_are_the_loss_at_the_moved_weights_and_leave_them_as_they_were():
    weights = [torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])]
    before = [weight.clone() for weight in weights]
    first, second = [torch.tensor([[1.0, 0.0]]), torch.tensor([0.5])], [torch.tensor([[0.0, 2.0]]), torch.zeros(1)]

    def loss():
        return float(weights[0][0, 0] * 100 + weights[0][0, 1] * 10 + weights[1][0])

    plane = slices(loss, weights, [first, second], np.array([-1.0, 0.0, 2.0]))
    by_hand = [[100 * (1 + a) + 10 * (2 + 2 * b) + 3 + 0.5 * a for b in (-1, 0, 2)] for a in (-1, 0, 2)]
    np.testing.assert_allclose(plane, by_hand)
    np.testing.assert_allclose(slices(loss, weights, [first], np.array([-1.0, 0.0, 2.0])), np.array(by_hand)[:, 1])
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


def test_squared_loss_of_a_linear_model_is_an_exact_parabola(blob_data):
    made = subject(blob_data, {"network": "pixels"}, "mse")
    found = LossLandscape(LossLandscape.Config(experiment="blob", points=11)).study(made)
    line = found.table[found.table["beta"] == 0]
    coefficients, residual, *_ = np.polyfit(line["alpha"], line["loss"], 2, full=True)
    assert residual[0] < 1e-9
    assert coefficients[0] > 0.01
    method, batches = made.load(0), split_batches(blob_data, "train", 256, 0, CPU)
    images, labels = batches.at(torch.arange(96))
    head, scores = method.head, method.head(method.encoder(images))
    direction = filter_normalised([head.weight.detach()], [0], torch.Generator().manual_seed(_seed()))[0]
    moved = method.encoder(images) @ direction.T  # (n, classes): what a step of 1 adds to the scores
    curvature = float(moved.detach().square().mean()) * _terms(scores, labels, made)
    assert coefficients[0] == pytest.approx(curvature, rel=1e-4)
    plane = found.table.pivot_table(index="alpha", columns="beta", values="loss").to_numpy()
    a, b = np.meshgrid(OFFSETS, OFFSETS, indexing="ij")
    design = np.stack([np.ones(121), a.ravel(), b.ravel(), a.ravel() ** 2, b.ravel() ** 2, (a * b).ravel()], 1)
    assert np.linalg.lstsq(design, plane.ravel(), rcond=None)[1][0] < 1e-8


def _seed():
    from mlml.seeds import derive

    return derive(0, "landscape")


def _terms(scores, labels, made):
    """Over how many numbers the loss takes its mean, as a factor of the mean over images and classes."""
    target = torch.nn.functional.one_hot(labels, scores.shape[1]).float()
    measured = evaluate(made.load(0), split_batches(made.data, "train", 256, 0, CPU), 0)["loss"]
    return measured / float((scores.detach() - target).square().mean())


def test_the_middle_is_the_loss_of_the_trained_model_in_eval_mode(blob_data):
    made = subject(blob_data, {"network": "mlp", "hidden_widths": [8]}, seeds=(0, 3))  # with batch norm
    found = LossLandscape(LossLandscape.Config(experiment="blob", points=5, plane=False)).study(made)
    for seed in (0, 3):
        measured = evaluate(made.load(seed), made.split("train", seed), seed)["loss"]
        assert found.metrics[seed]["landscape/centre/loss"] == measured
    assert len(found.table) == 10
    assert list(found.pictures) == ["loss on a line"]
    buffers = dict(made.load(0).named_buffers())
    assert float(buffers["encoder.layers.1.running_mean"].abs().max()) == 0


def test_it_is_the_same_every_time(blob_data):
    made = subject(blob_data, {"network": "mlp", "hidden_widths": [8]})
    study = LossLandscape(LossLandscape.Config(experiment="blob", points=5))
    pd.testing.assert_frame_equal(study.study(made).table, study.study(made).table)


def test_numbers_of_a_line():
    bowl = shape(4 * OFFSETS**2 + 1)
    assert bowl["landscape/centre/loss"] == 1
    assert bowl["landscape/rise/half"] == pytest.approx(4 * 0.4**2)  # 11 points: the half is two steps of five
    assert bowl["landscape/rise/full"] == pytest.approx(4)
    assert bowl["landscape/convex"] == 1
    dented = shape(np.array([3.0, 2.0, 2.5, 1.0, 2.0, 3.0, 4.0]))
    assert dented["landscape/convex"] == pytest.approx(4 / 5)  # bends at the inner points: 1.5, -2, 2.5, 0, 0


def test_the_words():
    lines = {0: 4 * OFFSETS**2 + 1, 1: np.array([4, 3, 3.2, 2, 1.5, 1.0, 0.5, 2, 3, 4, 5])}
    assert sentences("mlp", 1.0, lines) == (
        "mlp: the train loss is 1 at the final weights, 1.82 at a distance of 0.4 of the filters' norm in a random "
        "direction, and 4.75 at 1, means of 2 seeds.",
        "Along the line the loss is convex for 1 of 2 seeds, and lowest at the final weights for 1 of 2.",
    )


def test_the_pictures():
    line = line_plot(OFFSETS, {0: OFFSETS**2, 1: OFFSETS**2 + 2}, figures.LIGHT).axes[0]
    mean = next(drawn for drawn in line.lines if drawn.get_label() == "mean of seeds")
    np.testing.assert_allclose(mean.get_ydata(), OFFSETS**2 + 1)
    plane = OFFSETS[:, None] ** 2 + 3 * OFFSETS[None] + 5  # positive; (alpha, beta)
    axes, bar = plane_plot(OFFSETS, plane, figures.DARK).axes
    assert bar.get_ylabel() == "loss on train"
    assert axes.get_xlabel() == "first direction"
    flat = plane_plot(OFFSETS, np.ones((11, 11)), figures.LIGHT)
    assert len(flat.axes) == 2


@pytest.mark.parametrize("points", [20, 1, 203])
def test_points_are_odd_and_some(points):
    with pytest.raises(ValueError, match="points"):
        LossLandscape.Config(experiment="blob", points=points)
