"""The process behind the pictures, against closed forms, and the picture that shows it learn."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mlml import catalogue
from mlml.config import SearchConfig, parse
from mlml.search import _posterior
from mlml.search._posterior import moments, posterior, posterior_plot
from mlml.search._study import Record

RATE = "train.learning_rate"
LOG = {RATE: {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}


def search(space: dict[str, Any] = LOG, method: str = "tpe", **more: Any) -> SearchConfig:
    config = catalogue.method_class(catalogue.SECTIONS["search"], method).Config
    return parse(config, {"experiment": "a", "objective": "a", "space": space, **more}, "search.s")


def bowl(count: int = 12) -> list[Record]:
    """A parabola over the log of the rate, lowest at 1e-2."""
    shares = (np.arange(count) * 0.618034 + 0.1) % 1
    return [
        Record(k, "complete", float((part - 2 / 3) ** 2), {RATE: float(10 ** (3 * part - 4))}, {}, None)
        for k, part in enumerate(shares)
    ]


def points(count: int = 8) -> tuple[np.ndarray, list[float]]:
    x = np.linspace(0.05, 0.95, count)[:, None]
    return x, list((np.sin(5 * x) + x).ravel())


def test_the_mean_is_kriging_with_the_fitted_kernel():
    """Rasmussen & Williams 2006, Eqs. 2.25 and 2.26, with the process's own kernel, constant mean and noise."""
    from mlml.search._acquisition import fitted_process

    x, values = points()
    places = np.linspace(0, 1, 30)[:, None]
    found = posterior(x, values, places, "minimize")
    assert found is not None
    model = fitted_process(torch.tensor(x), -torch.tensor(values, dtype=torch.float64)[:, None])
    scale, shift = np.std(values, ddof=1), np.mean(values)
    numbers = (model.covar_module.lengthscale, model.likelihood.noise, model.mean_module.constant)
    lengthscale, noise, constant = (float(number.detach()) for number in numbers)

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.exp(-((one - other.T) ** 2) / (2 * lengthscale**2))

    y = -(np.array(values) - shift) / scale  # as the process has it: larger is better
    gram = kernel(x, x) + noise * np.eye(len(x))
    cross = kernel(places, x)  # (q, n)
    mean = constant + cross @ np.linalg.solve(gram, y - constant)
    variance = 1 - np.einsum("qn,nq->q", cross, np.linalg.solve(gram, cross.T))
    assert found.mean == pytest.approx(shift - scale * mean, abs=1e-5)
    assert found.deviation == pytest.approx(scale * np.sqrt(variance), abs=1e-4)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", ["log_ei", "ei", "ucb", "log_pi", "pi"])
def test_the_acquisition_is_the_closed_form_of_the_posterior(name: str, direction: str):
    x, values = points()
    found = posterior(x, values, np.linspace(0, 1, 50)[:, None], direction, name, beta=2.25)
    assert found is not None
    sign = 1 if direction == "maximize" else -1
    best = max(values) if direction == "maximize" else min(values)
    mean, sigma = found.mean, found.deviation
    z = sign * (mean - best) / sigma
    ei = sigma * (z * norm.cdf(z) + norm.pdf(z))
    expected = {"ei": ei, "pi": norm.cdf(z), "log_pi": norm.logcdf(z), "ucb": sign * mean + 1.5 * sigma}
    if name == "log_ei":
        known = ei > 1e-12  # below, the closed form has no digits left
        assert known.sum() > 10
        assert found.acquisition[known] == pytest.approx(np.log(ei[known]), abs=1e-2)
        assert np.isfinite(found.acquisition).all()
    else:
        assert found.acquisition == pytest.approx(expected[name], abs=1e-5)


def test_what_is_to_be_minimised_is_the_mirror_of_what_is_to_be_maximised():
    x, values = points()
    places = np.linspace(0, 1, 20)[:, None]
    one = posterior(x, values, places, "minimize")
    other = posterior(x, [-value for value in values], places, "maximize")
    assert one is not None
    assert other is not None
    assert one.mean == pytest.approx(-other.mean)
    assert one.deviation == pytest.approx(other.deviation)
    assert one.acquisition == pytest.approx(other.acquisition)


def test_the_process_is_shown_at_moments_that_differ():
    assert [moments(count) for count in (3, 4, 6, 7, 12, 16, 20, 100)] == [
        [3],
        [3, 4],
        [3, 6],
        [3, 6, 7],
        [3, 6, 12],
        [3, 6, 16],
        [3, 6, 10, 20],
        [3, 6, 50, 100],
    ]


def test_each_moment_shows_the_trials_up_to_it_and_the_next():
    records = [
        *bowl(20),
        Record(20, "failed", None, {RATE: 1e-3}, {}, "x"),
        Record(21, "pruned", 9.0, {RATE: 1e-3}, {}, None),
    ]
    figure = posterior_plot(search(), records)
    assert figure is not None
    upper = figure.axes[:4]
    assert [axes.get_title(loc="left") for axes in upper] == [f"after {count} trials" for count in (3, 6, 10, 20)]
    expected = [(record.parameters[RATE], record.value) for record in bowl(20)]
    for axes, count in zip(upper, (3, 6, 10, 20), strict=True):
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        assert lines["trials"] == [list(point) for point in expected[:count]]
        assert lines.get("the trial that followed", []) == [list(point) for point in expected[count : count + 1]]
        assert axes.get_xscale() == "log"


def test_the_mark_is_where_the_acquisition_is_largest():
    figure = posterior_plot(search(), bowl(12))
    assert figure is not None
    for upper, lower in zip(figure.axes[:3], figure.axes[3:], strict=True):
        curve = max(lower.lines, key=lambda line: len(line.get_xdata()))
        at = curve.get_xdata()[np.argmax(curve.get_ydata())]
        marks = [line.get_xdata()[0] for line in upper.lines if line.get_label() == "where the acquisition is largest"]
        assert marks == [pytest.approx(at)]
    assert marks == [pytest.approx(1e-2, rel=0.1)]  # the bowl's lowest point


def test_the_mark_of_whole_numbers_is_one_that_a_trial_can_have():
    space = {"width": {"type": "int", "low": 8, "high": 64, "step": 8}}
    records = [Record(k, "complete", (w / 37 - 1) ** 2, {"width": w}, {}, None) for k, w in enumerate((8, 24, 56, 64))]
    figure = posterior_plot(search(space), records)
    assert figure is not None
    (mark,) = [line for line in figure.axes[1].lines if line.get_label() == "where the acquisition is largest"]
    assert mark.get_xdata()[0] == pytest.approx(round(mark.get_xdata()[0] / 8) * 8)


@pytest.mark.parametrize("name", ["ei", "ucb", "pi", "log_pi", "log_ei"])
def test_the_acquisition_shown_is_the_search_s_own(name: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, float]] = []

    def noted(name: str, model: Any, best: Any, beta: float) -> Any:
        asked.append((name, beta))
        return function(name, model, best, beta)

    function = _posterior.acquisition_function
    monkeypatch.setattr(_posterior, "acquisition_function", noted)
    posterior_plot(search(method="gp", acquisition=name, beta=9.0), bowl(3))
    assert asked == [(name, 9.0)]
    asked.clear()
    posterior_plot(search(method="random"), bowl(3))
    assert asked == [("log_ei", 4.0)]


@pytest.mark.parametrize(
    ("space", "records"),
    [
        (LOG, bowl(2)),
        ({"name": {"type": "categorical", "choices": ["a", None]}}, []),
        ({**LOG, "width": {"type": "int", "low": 1, "high": 4}}, []),
    ],
)
def test_other_spaces_and_few_trials_have_no_picture(space: dict[str, Any], records: list[Record]):
    assert posterior_plot(search(space), records) is None


def test_a_fit_that_is_tried_again_draws_the_same_and_leaves_the_seed_alone(monkeypatch: pytest.MonkeyPatch):
    drawn: list[float] = []

    def noted(x: torch.Tensor, y: torch.Tensor) -> Any:
        drawn.append(float(torch.rand(())))  # as a second beginning of a fit would
        return fit(x, y)

    fit = _posterior.fitted_process
    monkeypatch.setattr(_posterior, "fitted_process", noted)
    x, values = points()
    for seed in (1, 2):
        torch.manual_seed(seed)
        posterior(x, values, x, "minimize")
        assert torch.initial_seed() == seed
    assert drawn[0] == drawn[1]


def test_where_no_process_can_be_fitted_the_trials_are_shown_alone(monkeypatch: pytest.MonkeyPatch):
    from botorch.exceptions import ModelFittingError

    def refuse(*_: Any) -> None:
        raise ModelFittingError("x")

    monkeypatch.setattr(_posterior, "fitted_process", refuse)
    figure = posterior_plot(search(), bowl(3))
    assert figure is not None
    assert {line.get_label() for line in figure.axes[0].lines} == {"trials"}
