"""Whether a trial is to end at an evaluation, by Optuna's pruners; rungs are in `mlml.search._rungs`.

Optuna's successive halving notes at a trial which rungs it came to, and decides after that: killed between the two, a
trial would forget that it was to end. So it is asked about a copy of the study, and its decision is written in one
line with what it noted.
"""

import copy

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

from mlml.config import SearchConfig
from mlml.search._past import past_of, scratch

_DECISION = "pruning"
"""Attribute of a trial: the last decision about it, {step, prune, noted}."""


def should_prune(study: optuna.Study, number: int, config: SearchConfig, seed: int) -> bool:
    """Whether a trial is to end at its last evaluation; once decided, it stays so.

    Args:
        study: with the trial, and those before it.
        number: of the trial, which is compared with what it may know of the others.
        config: the search's numbers.
        seed: of the search; decides which bracket of "hyperband" a trial is of.
    """
    trials = study.get_trials(deepcopy=False)[: number + 1]
    trial = trials[-1]
    if config.pruner in ("none", "asha") or trial.last_step is None:
        return False
    pruner = _pruner(config)
    compared = [*past_of(trials[:-1], number, config.workers), trial]
    if isinstance(pruner, MedianPruner):
        study = scratch(compared, [config.direction])
        return bool(pruner.prune(study, study.get_trials(deepcopy=False)[number]))
    held = trial.user_attrs.get(_DECISION)
    if held is not None and held["step"] == trial.last_step:
        return bool(held["prune"])
    copies = [copy.copy(other) for other in compared]
    for other in copies:
        other.system_attrs = dict(other.user_attrs.get(_DECISION, {}).get("noted", {}))
    own = scratch(copies, [config.direction], name=str(seed))  # hyperband deals out by the name
    prune = bool(pruner.prune(own, own.get_trials(deepcopy=False)[number]))
    noted = own.get_trials(deepcopy=False)[number].system_attrs
    decision = {"step": trial.last_step, "prune": prune, "noted": noted}
    study._storage.set_trial_user_attr(trial._trial_id, _DECISION, decision)
    return prune


def _pruner(config: SearchConfig) -> BasePruner:
    if config.pruner == "median":
        return MedianPruner(config.pruner_startup_trials, config.pruner_warmup_steps)
    assert config.pruner_min_steps is not None  # SearchConfig sees to it
    if config.pruner == "successive_halving":
        return SuccessiveHalvingPruner(config.pruner_min_steps, config.pruner_reduction)
    assert config.pruner_max_steps is not None
    return HyperbandPruner(config.pruner_min_steps, config.pruner_max_steps, config.pruner_reduction)
