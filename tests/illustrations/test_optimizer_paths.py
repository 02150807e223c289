"""Surfaces by their known points, paths by hand-written optimizers, words by the numbers."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from mlml import figures
from mlml.config import AdamConfig, LARSConfig, SGDConfig
from mlml.illustrations._surfaces import SURFACES
from mlml.illustrations.optimizer_paths import OptimizerPaths, path, plot, sentences, solved_after


def height(surface, x, y):
    return float(SURFACES[surface].loss(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("surface", "x", "y", "loss"),
    [
        ("saddle", 0.0, 0.0, 0.0),
        ("saddle", 0.0, math.sqrt(2), -1.0),
        ("saddle", 1.0, 1.0, 0.25),
        ("plateau", 0.0, 0.0, 0.0),
        ("plateau", 1.0, 1.0, 1 - math.exp(-1)),
        ("ravine", 1.0, 1.0, 25.5),
        ("rosenbrock", 1.0, 1.0, 0.0),
        ("rosenbrock", 0.0, 2.0, 401.0),
        ("beale", 3.0, 0.5, 0.0),
        ("beale", 0.0, 0.0, 1.5**2 + 2.25**2 + 2.625**2),
    ],
)
def test_known_points(surface, x, y, loss):
    assert height(surface, x, y) == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("name", SURFACES)
def test_nothing_is_lower_than_the_minimum(name):
    surface = SURFACES[name]
    left, right, bottom, top = surface.view
    x, y = torch.meshgrid(torch.linspace(left, right, 400), torch.linspace(bottom, top, 400), indexing="xy")
    lowest = float(surface.loss(x.double(), y.double()).min())
    assert surface.minimum - 1e-9 <= lowest < surface.minimum + 0.02
    assert surface.minimum < surface.solved


def test_every_surface_can_be_declared():
    assert set(get_args(OptimizerPaths.Config.model_fields["surface"].annotation)) == set(SURFACES)


def test_gradient_descent_by_hand():
    points = path(SURFACES["ravine"], (1.0, 0.5), 3, SGDConfig(learning_rate=0.01, momentum=0.0))
    by_hand = [(0.99**k, 0.5 * 0.5**k) for k in range(4)]  # x loses 0.01 x, y loses 0.01 * 50 y
    np.testing.assert_allclose(points[:, :2], by_hand, rtol=1e-12)
    np.testing.assert_allclose(points[:, 2], [(x * x + 50 * y * y) / 2 for x, y in by_hand], rtol=1e-12)


def test_momentum_by_hand():
    points = path(SURFACES["ravine"], (1.0, 0.0), 4, SGDConfig(learning_rate=0.1, momentum=0.9))
    x, velocity, by_hand = 1.0, 0.0, [1.0]
    for _ in range(4):
        velocity = 0.9 * velocity + x
        x -= 0.1 * velocity
        by_hand.append(x)
    np.testing.assert_allclose(points[:, 0], by_hand, rtol=1e-12)


def test_adam_s_first_step_is_its_rate_in_every_direction():
    points = path(SURFACES["ravine"], (1.0, 0.5), 1, AdamConfig(learning_rate=0.1))
    np.testing.assert_allclose(points[0, :2] - points[1, :2], [0.1, 0.1], rtol=1e-6)


def test_lars_moves_by_a_share_of_the_weights_norm():
    numbers = {"learning_rate": 1.0, "momentum": 0.0, "trust_coefficient": 0.02, "weight_decay": 0.0}
    points = path(SURFACES["rosenbrock"], (-1.0, 1.5), 1, LARSConfig(**numbers))
    step = np.linalg.norm(points[1, :2] - points[0, :2])
    assert step == pytest.approx(0.02 * np.linalg.norm([-1.0, 1.5]), rel=1e-6)


def test_a_path_that_leaves_the_numbers_ends_there():
    points = path(SURFACES["rosenbrock"], (2.0, 2.0), 200, SGDConfig(learning_rate=1.0, momentum=0.0))
    assert len(points) < 20
    assert np.isfinite(points).all()
    told = sentences("rosenbrock", SURFACES["rosenbrock"], {"sgd": points, "still": points[[0] * 201]}, 200)
    assert "Left the finite numbers: sgd." in told
    assert told[-1].startswith("Lowest at the end was still")


def test_the_hurdle_is_passed_at_the_first_loss_below_it():
    points = np.array([[0, 0, 1.0], [0, 0, 0.5], [0, 0, 0.4], [0, 0, 0.6]])
    assert solved_after(points, SURFACES["plateau"]) == 2
    assert solved_after(points[:2], SURFACES["plateau"]) is None


def test_findings_are_those_of_the_paths():
    numbers = {
        "surface": "saddle",
        "start": (1.0, 0.01),
        "steps": 60,
        "optimizers": {
            "sgd": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0},
            "adam": {"name": "adam", "learning_rate": 0.1},
        },
    }
    config = OptimizerPaths.Config.model_validate(numbers)
    found = OptimizerPaths(config).illustrate()
    adam = path(SURFACES["saddle"], (1.0, 0.01), 60, config.optimizers["adam"])
    after = solved_after(adam, SURFACES["saddle"])
    assert found.metrics[0]["adam/steps_to_solved"] == after
    assert found.metrics[0]["adam/final/loss"] == adam[-1, 2]
    assert "sgd/steps_to_solved" not in found.metrics[0]  # too slow: y grows by 2 % in a step
    assert found.sentences[0] == f"Steps until each left the saddle (loss below -0.5): adam after {after}."
    assert found.sentences[1].startswith("Not within 60 steps: sgd (loss ")
    table = found.table[found.table["optimizer"] == "adam"]
    np.testing.assert_array_equal(table[["x", "y", "loss"]].to_numpy(), adam)
    assert list(table["step"]) == list(range(61))


def test_the_picture_shows_paths_and_losses():
    surface = SURFACES["ravine"]
    paths = {"slow": path(surface, (1.0, 0.5), 5, SGDConfig(learning_rate=0.001, momentum=0.0))}
    paths["quick"] = path(surface, (1.0, 0.5), 5, SGDConfig(learning_rate=0.02, momentum=0.0))
    view, course = plot(surface, paths, figures.DARK).axes
    by_label = {line.get_label(): line.get_xydata() for line in view.lines}
    np.testing.assert_array_equal(by_label["quick"], paths["quick"][:, :2])
    np.testing.assert_allclose(course.lines[1].get_ydata(), paths["quick"][:, 2])
    assert course.get_yscale() == "log"
    assert (*view.get_xlim(), *view.get_ylim()) == surface.view
