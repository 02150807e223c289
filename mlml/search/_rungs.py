"""Which trial goes on to its next rung, and where trials stop: Li et al. 2020, arXiv:1810.05934, Algorithm 2.

Rung r lies at `pruner_min_steps` * `pruner_reduction`^r optimizer steps. A trial stops at the first evaluation at or
after its rung. Whoever begins a trial takes the best of the highest rung of which one more may go on, so far the best
1/`pruner_reduction` of those that came there; where nobody may, it begins in rung 0 with new values. A trial that goes
on does so under a new number, from the checkpoint of the old one, and knows its evaluations. Where nobody has come to
the end of a training yet, the last trial of the budget takes the best of the highest rung there.
"""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from mlml.config import SearchConfig
from mlml.search._past import CONTINUES, RUNG

TO_THE_END = -1
"""Rung of a trial that stops at none."""


def to_promote(past: Sequence[FrozenTrial], config: SearchConfig) -> tuple[FrozenTrial, int] | None:
    """Return the trial that the next one goes on from, and the rung to stop at; None where it is to try new values."""
    sign = 1 if config.direction == "minimize" else -1
    gone_on = {trial.user_attrs[CONTINUES] for trial in past if CONTINUES in trial.user_attrs}
    rungs: dict[int, list[FrozenTrial]] = {}
    for trial in past:
        if trial.state in (TrialState.PRUNED, TrialState.COMPLETE):
            rungs.setdefault(trial.user_attrs[RUNG], []).append(trial)
    is_last = config.max_trials is not None and len(past) == config.max_trials - 1
    to_the_end = is_last and not any(trial.state == TrialState.COMPLETE for trial in past)
    for rung in sorted(rungs, reverse=True):
        ranked = sorted(rungs[rung], key=lambda trial: (sign * _value(trial), trial.number))
        for trial in ranked if to_the_end else ranked[: len(ranked) // config.pruner_reduction]:
            if trial.state == TrialState.PRUNED and trial.number not in gone_on:
                return trial, TO_THE_END if to_the_end else _next_rung(trial, config)
    return None


def _next_rung(trial: FrozenTrial, config: SearchConfig) -> int:
    """Return the rung that a trial which goes on stops at: the first that lies after where it is."""
    rung: int = trial.user_attrs[RUNG] + 1
    while _steps(rung, config) <= (trial.last_step or 0):
        rung += 1
    return rung


def is_at_rung(rung: int, step: int, config: SearchConfig) -> bool:
    """Whether a trial is to stop at an evaluation, given the rung that it is to stop at."""
    return rung != TO_THE_END and step >= _steps(rung, config)


def without_continued(past: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return one trial for each that began with new values, in their order: the last of those that it went on as."""
    first: dict[int, int] = {}
    last: dict[int, FrozenTrial] = {}
    for trial in past:
        root = first[trial.number] = first.get(trial.user_attrs.get(CONTINUES, trial.number), trial.number)
        if root not in last or trial.state.is_finished():
            last[root] = trial
    return list(last.values())


def _steps(rung: int, config: SearchConfig) -> int:
    assert config.pruner_min_steps is not None  # SearchConfig sees to it
    return config.pruner_min_steps * int(config.pruner_reduction**rung)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # a pruned trial's is its last evaluation
    return float(trial.value)
