"""What trial n may know of the others, and a study of Optuna that holds just that.

With one worker trial n knows all that came before it. With w workers it knows what the trials up to n - 2w found, and
of those after them only the values that they try, whether they have ended by then or not: then the search is a function
of its seed, and not of who was faster. A worker that is done waits only where another is 2w trials behind.
"""

import copy
from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from mlml.config import Direction

CONTINUES, RUNG = "continues", "rung"
"""User attributes of a trial that stops at rungs (`mlml.search._rungs`): whom it goes on from, and where it stops."""


def horizon(number: int, workers: int) -> int:
    """Return how many trials, from the first on, trial `number` knows all of; they must have ended before it begins."""
    return number if workers == 1 else max(0, number + 1 - 2 * workers)


def past_of(trials: Sequence[FrozenTrial], number: int, workers: int) -> list[FrozenTrial]:
    """Return the trials before trial `number` as far as it may know them."""
    known = horizon(number, workers)
    return [*trials[:known], *map(_unknown, trials[known:number])]


def _unknown(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as it was when it began."""
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={key: trial.user_attrs[key] for key in (CONTINUES, RUNG) if key in trial.user_attrs},
        system_attrs=trial.system_attrs,
    )


def scratch(
    trials: Sequence[FrozenTrial], directions: Sequence[Direction], sampler: BaseSampler | None = None, name: str = ""
) -> optuna.Study:
    """Return a study in memory that holds these trials, numbered from 0; they must not be changed there.

    `Study.add_trials` would copy all that a trial holds, which for hundreds of short trials takes longer than the rest
    of a search does.
    """
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name=name or None, directions=list(directions), sampler=sampler)
    held = storage._studies[study._study_id]
    for number, trial in enumerate(trials):
        if (trial.number, trial._trial_id) != (number, number):
            trial = copy.copy(trial)
            trial.number = trial._trial_id = number
        held.trials.append(trial)
    storage._trial_id_to_study_id_and_number = {number: (study._study_id, number) for number in range(len(trials))}
    storage._max_trial_id = len(trials) - 1
    complete = [trial for trial in held.trials if trial.state == TrialState.COMPLETE]
    if complete and len(directions) == 1:
        sign = 1 if directions[0] == "minimize" else -1
        held.best_trial_id = min(complete, key=lambda trial: sign * (trial.value or 0.0))._trial_id
    return study
