"""Whether a trial is to end at an evaluation, by Optuna's pruners.

Optuna's successive halving notes at a trial which rungs it came to, and decides after that: killed between the two, a
trial would forget that it was to end. So it is asked about a copy of the study, and its decision is written in one
line with what it noted.
"""

import copy

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from mlml.config import SearchConfig

_DECISION = "pruning"
"""Attribute of a trial: the last decision about it, {step, prune, noted}."""


def should_prune(study: optuna.Study, number: int, config: SearchConfig, seed: int) -> bool:
    """Whether a trial is to end at its last evaluation; once decided, it stays so.

    Args:
        study: with the trial, and those before it.
        number: of the trial.
        config: the search's numbers.
        seed: of the search; decides which bracket of "hyperband" a trial is of.
    """
    trials = study.get_trials(deepcopy=False)[: number + 1]
    trial, pruner = trials[-1], _pruner(config)
    if trial.last_step is None:
        return False
    if isinstance(pruner, NopPruner | MedianPruner):
        return bool(pruner.prune(study, trial))
    held = trial.user_attrs.get(_DECISION)
    if held is not None and held["step"] == trial.last_step:
        return bool(held["prune"])
    scratch = optuna.create_study(study_name=str(seed), direction=config.direction)  # hyperband deals out by the name
    for other in trials:
        copied = copy.copy(other)
        copied.system_attrs = other.user_attrs.get(_DECISION, {}).get("noted", {})
        scratch.add_trial(copied)
    prune = bool(pruner.prune(scratch, scratch.get_trials(deepcopy=False)[number]))
    noted = scratch.get_trials(deepcopy=False)[number].system_attrs
    decision = {"step": trial.last_step, "prune": prune, "noted": noted}
    study._storage.set_trial_user_attr(trial._trial_id, _DECISION, decision)
    return prune


def _pruner(config: SearchConfig) -> BasePruner:
    if config.pruner == "none":
        return NopPruner()
    if config.pruner == "median":
        return MedianPruner(config.pruner_startup_trials, config.pruner_warmup_steps)
    assert config.pruner_min_steps is not None  # SearchConfig sees to it
    if config.pruner == "successive_halving":
        return SuccessiveHalvingPruner(config.pruner_min_steps, config.pruner_reduction)
    assert config.pruner_max_steps is not None
    return HyperbandPruner(config.pruner_min_steps, config.pruner_max_steps, config.pruner_reduction)
