"""Acquisition functions of Bayesian optimisation, by BoTorch.

Notation, for a Gaussian process with mean mu(x) and standard deviation sigma(x) of the metric at x (Phi and phi: the
distribution and the density of the standard normal):
    best      incumbent: the best value of a complete trial
    z         (mu - best) / sigma when maximising, (best - mu) / sigma when minimising
    EI        sigma (z Phi(z) + phi(z))          expected improvement over best, >= 0
    PI        Phi(z)                             probability of improvement
    UCB       mu + sqrt(beta) sigma when maximising, -mu + sqrt(beta) sigma when minimising

The next trial is where the function is largest. Optuna hands a metric that is to be minimised on with its sign turned,
so everything here is maximised; EI and PI are the same either way.
"""

import warnings
from collections.abc import Callable
from functools import partial

from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import (
    ExpectedImprovement,
    LogExpectedImprovement,
    LogProbabilityOfImprovement,
    ProbabilityOfImprovement,
    UpperConfidenceBound,
)
from botorch.exceptions.warnings import InputDataWarning, NumericsWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model import Model
from botorch.models.transforms import Standardize
from botorch.optim import optimize_acqf
from botorch.utils.transforms import normalize, unnormalize
from gpytorch.mlls import ExactMarginalLogLikelihood
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler
from optuna_integration import BoTorchSampler
from torch import Tensor, cat, no_grad, ones_like, stack, zeros_like

RESTARTS, RAW_SAMPLES = 10, 512
"""Local searches for the largest value of the function, and random points that their beginnings are chosen from."""

FIT_STEPS = 50
"""Most steps of L-BFGS that a fit takes; further ones take half of a trial's time, and hardly move what is fitted."""

_IMPROVING: dict[str, Callable[..., AcquisitionFunction]] = {
    "ei": ExpectedImprovement,
    "log_ei": LogExpectedImprovement,
    "pi": ProbabilityOfImprovement,
    "log_pi": LogProbabilityOfImprovement,
}


def acquisition_function(name: str, model: Model, best: float | Tensor, beta: float) -> AcquisitionFunction:
    """Return an acquisition function over a model of values that are to be maximised.

    Args:
        name: "ei", "log_ei", "pi", "log_pi" or "ucb".
        model: of the values, those of a metric to be minimised with their sign turned.
        best: the largest value of a complete trial, of the same sign.
        beta: of "ucb".
    """
    if name == "ucb":
        return UpperConfidenceBound(model, beta=beta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericsWarning)  # it advises "log_ei" for "ei"
        return _IMPROVING[name](model, best_f=best)


def fitted_process(x: Tensor, y: Tensor) -> SingleTaskGP:
    """Return the Gaussian process of largest marginal likelihood, its lengthscales and noise under BoTorch's priors.

    Args:
        x: in [0, 1], (n, d).
        y: values at x, (n, 1).

    Raises:
        botorch.exceptions.ModelFittingError: no fit succeeds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputDataWarning)  # equal values have no scale to be brought to
        model = SingleTaskGP(x, y, outcome_transform=Standardize(m=1))
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": FIT_STEPS}})
    return model


def believing(model: SingleTaskGP, pending: Tensor) -> tuple[Model, Tensor]:
    """Return the process as if what it expects at points whose values are not known yet had been found, and that.

    Its mean stays, and it is as sure there as where trials have ended, so that the next one goes elsewhere: the kriging
    believer of Ginsbourger, Le Riche & Carraro 2010 (doi:10.1007/978-3-642-10701-6_6).

    Args:
        model: of the trials that have ended.
        pending: values of those that have not, in [0, 1], (m, d).

    Returns:
        The process, and what it expected, (m, 1).
    """
    with no_grad():
        expected = model.posterior(pending).mean  # (m, 1)
        told: Model = model.condition_on_observations(pending, expected)
    return told, expected


def botorch_sampler(name: str, beta: float, startup_trials: int, seed: int) -> BaseSampler:
    """Return a sampler of one trial by an acquisition function; see `acquisition_function`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # it is pinned
        return BoTorchSampler(
            candidates_func=partial(_candidate, name, beta),
            n_startup_trials=startup_trials,
            independent_sampler=RandomSampler(seed=seed),
            consider_running_trials=True,
            seed=seed,
        )


def _candidate(
    name: str, beta: float, x: Tensor, y: Tensor, constraints: Tensor | None, bounds: Tensor, pending: Tensor | None
) -> Tensor:
    """Return the values of the next trial, (1, d).

    Args:
        name: of the acquisition function.
        beta: of "ucb".
        x: values of the complete trials, (n, d); log scales as logarithms, choices one-hot.
        y: their metric, to be maximised, (n, 1).
        constraints: None.
        bounds: of x, (2, d).
        pending: values of trials that have not ended, (m, d), or None.
    """
    fitted = fitted_process(normalize(x, bounds), y)
    model: Model = fitted
    if pending is not None:
        model, expected = believing(fitted, normalize(pending, bounds))
        y = cat([y, expected])
    unit = stack([zeros_like(bounds[0]), ones_like(bounds[0])])  # (2, d)
    function = acquisition_function(name, model, y.max(), beta)
    found, _ = optimize_acqf(function, unit, q=1, num_restarts=RESTARTS, raw_samples=RAW_SAMPLES)
    point: Tensor = unnormalize(found.detach(), bounds)
    return point
