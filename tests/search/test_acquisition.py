"""Acquisition functions against their closed forms, through the code that a search runs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm

from mlml import catalogue
from mlml.config import parse
from mlml.search._acquisition import _candidate, believing, fitted_process
from mlml.search._study import run_study

BETA = 2.25
MEAN, VARIANCE, BEST = -0.5, 1.0, 0.0


def closed_form(name: str, mean: float, variance: float, best: float, direction: str) -> float:
    """The notation of mlml/search/_acquisition.py, of a metric in its own units and direction."""
    sigma = math.sqrt(variance)
    sign = 1 if direction == "maximize" else -1
    z = sign * (mean - best) / sigma
    if name == "log_ei":
        return math.log(closed_form("ei", mean, variance, best, direction))
    return {
        "ei": sigma * (z * norm.cdf(z) + norm.pdf(z)),
        "pi": norm.cdf(z),
        "log_pi": norm.logcdf(z),
        "ucb": sign * mean + math.sqrt(BETA) * sigma,
    }[name]


def of_known_posterior(name: str, direction: str) -> float:
    """Value of the acquisition function where the model says MEAN, VARIANCE of a metric to be so directed."""
    sign = 1 if direction == "maximize" else -1  # what is to be minimised comes with its sign turned
    if name == "log_ei":
        from optuna._gp.acqf import logei

        mean, variance = torch.tensor([sign * MEAN, VARIANCE], dtype=torch.float64)
        return float(logei(mean, variance, sign * BEST))
    from botorch.utils.testing import MockModel, MockPosterior

    from mlml.search._acquisition import acquisition_function

    posterior = MockPosterior(
        mean=torch.full((1, 1), sign * MEAN, dtype=torch.float64),
        variance=torch.full((1, 1), VARIANCE, dtype=torch.float64),
    )
    function = acquisition_function(name, MockModel(posterior), sign * BEST, BETA)
    return float(function(torch.zeros(1, 1, dtype=torch.float64)))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", ["log_ei", "ei", "ucb", "log_pi", "pi"])
def test_values_are_the_closed_forms(name: str, direction: str):
    assert of_known_posterior(name, direction) == pytest.approx(
        closed_form(name, MEAN, VARIANCE, BEST, direction), abs=1e-6
    )


def test_the_closed_forms_are_the_tables_numbers():
    """EI at mean -0.5, variance 1, best 0: 0.5 Phi(0.5) + phi(0.5) when minimising, that less 0.5 when maximising."""
    assert closed_form("ei", MEAN, VARIANCE, BEST, "minimize") == pytest.approx(0.697797, abs=1e-6)
    assert closed_form("ei", MEAN, VARIANCE, BEST, "maximize") == pytest.approx(0.197797, abs=1e-6)
    assert closed_form("pi", MEAN, VARIANCE, BEST, "minimize") == pytest.approx(0.691462, abs=1e-6)
    assert closed_form("pi", MEAN, VARIANCE, BEST, "maximize") == pytest.approx(0.308538, abs=1e-6)
    assert closed_form("ucb", MEAN, VARIANCE, BEST, "minimize") == pytest.approx(2.0)
    assert closed_form("ucb", MEAN, VARIANCE, BEST, "maximize") == pytest.approx(1.0)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", ["ei", "ucb", "log_pi", "pi"])
def test_a_trial_is_where_the_closed_form_is_largest(
    name: str, direction: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The whole way: a search's history, the fitted process, and the trial that comes next."""
    from mlml.search import _acquisition

    kept: list[Any] = []
    optimize = _acquisition.optimize_acqf

    def watched(function: Any, *rest: Any, **options: Any) -> Any:
        kept.append(function)
        return optimize(function, *rest, **options)

    monkeypatch.setattr(_acquisition, "optimize_acqf", watched)
    cls = catalogue.method_class("search", "gp")
    entry = {
        "experiment": "toy",
        "objective": "toy",
        "space": {"x": {"type": "float", "low": 2.0, "high": 6.0}},
        "direction": direction,
        "pruner": "none",
        "trials": 6,
        "startup_trials": 5,
        "acquisition": name,
        "beta": BETA,
    }
    search = cls(parse(cls.Config, entry, "search.s"))
    records = run_study(
        search.config, search.sampler, tmp_path, lambda overrides, *_: math.sin(2 * overrides["x"]) + 3, seed=3
    )
    [function] = kept
    sign = 1 if direction == "maximize" else -1
    best = (max if sign == 1 else min)(record.value for record in records[:5])

    def by_hand(x: float) -> tuple[float, float]:
        """The acquisition's value and the closed form of the process's mean and variance at x."""
        share = torch.tensor([[(x - 2.0) / 4.0]], dtype=torch.float64)
        with torch.no_grad():
            posterior = function.model.posterior(share)
            value = float(function(share.unsqueeze(1)))
        mean, variance = sign * float(posterior.mean), float(posterior.variance)
        assert abs(mean - 3) < 3  # in the metric's own units and direction, which swings by 1 around 3
        return value, closed_form(name, mean, variance, best, direction)

    values = []
    for k in range(41):
        value, expected = by_hand(2 + k / 10)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)
        values.append(value)
    assert by_hand(records[5].parameters["x"])[1] >= max(values) - 1e-6


def test_a_process_believes_what_it_expects_of_trials_that_have_not_ended():
    x = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    y = torch.sin(6 * x) + 3
    model, grid = fitted_process(x, y), torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
    pending = torch.tensor([[0.27], [0.5]], dtype=torch.float64)
    believed, expected = believing(model, pending)
    torch.testing.assert_close(expected, model.posterior(pending).mean)
    before, after = model.posterior(grid), believed.posterior(grid)
    torch.testing.assert_close(after.mean, before.mean, rtol=1e-4, atol=1e-4)
    assert (after.variance <= before.variance + 1e-9).all()
    there, was = believed.posterior(pending).variance, model.posterior(pending).variance
    assert (there < 0.7 * was).all()


@pytest.mark.parametrize("name", ["ei", "ucb", "log_pi"])
def test_a_trial_keeps_away_from_those_that_have_not_ended(name):
    x = torch.tensor([[0.0], [0.2], [0.9], [1.0]], dtype=torch.float64)
    y = torch.sin(3 * x)
    bounds = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def following(pending):
        torch.manual_seed(0)
        return _candidate(name, 4.0, x, y, None, bounds, pending)

    first = following(None)
    second = following(first)
    assert (second - first).abs().item() > 1e-3


@pytest.mark.parametrize("num_trials", [12, 25, 39])
@pytest.mark.parametrize("name", ["branin", "hartmann6"])
def test_a_fit_of_few_steps_is_as_likely_as_one_that_goes_on(
    name: str, num_trials: int, monkeypatch: pytest.MonkeyPatch
):
    from gpytorch.mlls import ExactMarginalLogLikelihood

    from mlml.illustrations._objectives import OBJECTIVES
    from mlml.search import _acquisition

    box = OBJECTIVES[name].box
    x = torch.rand(num_trials, len(box), dtype=torch.float64, generator=torch.Generator().manual_seed(num_trials))
    low, high = torch.tensor(list(box.values()), dtype=torch.float64).T
    points = [dict(zip(box, row.tolist(), strict=True)) for row in low + (high - low) * x]
    y = torch.tensor([[-OBJECTIVES[name].function(point)] for point in points], dtype=torch.float64)

    def likelihood(steps: int) -> float:
        monkeypatch.setattr(_acquisition, "FIT_STEPS", steps)
        model = _acquisition.fitted_process(x, y).train()
        marginal = ExactMarginalLogLikelihood(model.likelihood, model)
        return float(marginal(model(*model.train_inputs), model.train_targets).detach())

    enough = _acquisition.FIT_STEPS
    assert likelihood(enough) == pytest.approx(likelihood(10_000), abs=1e-3)
    assert likelihood(3) < likelihood(10_000) - 1e-2
