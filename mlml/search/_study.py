"""A study that may be killed at any moment: run again, it ends as if it had never been killed.

What makes it so:
- the values of trial n are a function of (seed, n, the trials before it): a sampler serves one trial, drawing on a
  scratch copy of the past, so that no hidden state of a sampler has to survive;
- a trial enters the journal whole, in one line, with all of its values;
- a trial that its process left unfinished keeps its number and values and is run again in its own folder, where the
  objective goes on from its checkpoint; an evaluation that the journal already has is not written again, and a
  decision not to prune, once gone by, stays;
- a trial is being run exactly as long as a process holds its lock, the kernel's or the database's.
"""

import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from mlml.config import SearchConfig
from mlml.search._pruning import should_prune
from mlml.search._space import suggest
from mlml.search._storage import Lock, Store, open_store
from mlml.seeds import derive

logger = logging.getLogger(__name__)

Report = Callable[[int, float], None]
"""Takes (step, value) of an evaluation; raises optuna.TrialPruned when the trial is to end here."""

Objective = Callable[[dict[str, Any], int, Path, Report], float]
"""Runs one trial: (values by dotted path, number of the trial, folder of the trial, report) -> value."""

MakeSampler = Callable[[int, int], optuna.samplers.BaseSampler]
"""Makes the sampler of one trial: (seed of the trial, seed of the search) -> sampler; `sampler` of the methods."""

_STATES: dict[Any, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class SearchError(RuntimeError):
    """A search that cannot go on, or that found nothing; the message names its folder and the way out."""


class Record(NamedTuple):
    """One finished trial.

    Attributes:
        value: of a complete trial; of a pruned one its last evaluation; None of a failed one.
        parameters: values by dotted path, in the order of the space, of the dimensions that apply.
        evaluations: value by step.
        failure: of a failed trial, what it failed at.
        further: of a complete trial, by metric, the further objectives.
        continues: number of the trial from whose checkpoint this one went on.
        interruptions: processes that ended in the middle of it.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    parameters: dict[str, Any]
    evaluations: dict[int, float]
    failure: str | None
    further: dict[str, float] = {}  # noqa: RUF012
    continues: int | None = None
    interruptions: int = 0


def run_study(
    config: SearchConfig,
    sampler: MakeSampler,
    folder: Path,
    objective: Objective,
    seed: int,
    name: str = "search",
) -> list[Record]:
    """Run the trials of a search, going on with what `folder` holds of it.

    The objective must be a function of its values, and go on from what it left in its folder if it finds something
    there. It must report an evaluation before it makes a checkpoint from which it would not report it again; reporting
    one again is harmless. A trial whose objective raises an `Exception` counts as failed, and the search goes on.

    Args:
        config: the search's numbers.
        sampler: makes the sampler of a trial, such as `TPE(config).sampler`.
        folder: of the journal and of the trials' folders; all stay when the search is over.
        objective: runs one trial.
        seed: of the search.
        name: of the study, where it lies in a database that others use as well.

    Returns:
        One record for each trial, by number.

    Raises:
        SearchError: `folder` holds another search, another process runs one of its trials, or no trial was completed.
    """
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    with without_optuna_info():
        search = _Search.open(config, sampler, folder, seed, name)
        while (claimed := search.claim()) is not None:
            number, lock = claimed
            try:
                search.run(number, objective)
            finally:
                lock.release()
        records = search.records()
    if not any(record.state == "complete" for record in records):
        first = next((record.failure for record in records if record.failure), "it was pruned")
        raise SearchError(f"{folder}: none of {len(records)} trials was completed; the first said: {first}")
    return records


def best(records: Sequence[Record], direction: Literal["minimize", "maximize"]) -> Record:
    """Return the complete trial with the best value, the first of several.

    Raises:
        ValueError: no trial is complete.
    """
    sign = 1 if direction == "minimize" else -1
    complete = [record for record in records if record.state == "complete"]
    return min(complete, key=lambda record: (sign * (record.value or 0.0), record.number))


@dataclass(frozen=True)
class _Search:
    config: SearchConfig
    sampler: MakeSampler
    folder: Path
    seed: int
    store: Store
    study: optuna.Study

    @classmethod
    def open(
        cls,
        config: SearchConfig,
        sampler: MakeSampler,
        folder: Path,
        seed: int,
        name: str,
    ) -> "_Search":
        """Open the study, or begin it."""
        # more trials of the same search go on with it, so their number may change
        declared = {"of": type(config).__module__, "seed": seed, **config.model_dump(mode="json", exclude={"trials"})}
        store = open_store(folder, name)
        with store.lock("study"):
            study = optuna.create_study(
                storage=store.storage,
                study_name=store.name,
                direction=config.direction,
                sampler=optuna.samplers.RandomSampler(),  # asked for nothing: see `_sampled`
                pruner=optuna.pruners.NopPruner(),  # not asked either: see `should_prune`
                load_if_exists=True,
            )
            held = study.user_attrs.get("declared")
            if held is None:
                study.set_user_attr("declared", declared)
            elif held != declared:
                differing = sorted(key for key in {*held, *declared} if held.get(key) != declared.get(key))
                raise SearchError(
                    f"{folder}: holds a search with another {', '.join(differing)}; remove it or use another folder"
                )
        return cls(config, sampler, folder, seed, store, study)

    def claim(self) -> tuple[int, Lock] | None:
        """Take the next trial: one that a dead process left, else a new one; None when all are finished.

        Returns:
            The number of the trial, and the lock that says that it is being run.
        """
        with self.store.lock("study"):
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials[: self.config.max_trials]:
                if trial.state == TrialState.RUNNING:
                    lock = self._lock(trial.number)
                    self.store.storage.set_trial_user_attr(self._id(trial.number), "worker", _worker())
                    logger.info("trial %d goes on where it was left", trial.number)
                    return trial.number, lock
            number = len(trials)
            if self.config.max_trials is not None and number >= self.config.max_trials:
                return None
            lock = self._lock(number)
            drawn = self._sampled(trials)
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=drawn.params,
                    distributions=drawn.distributions,
                    user_attrs={"worker": _worker()},
                    system_attrs=drawn.system_attrs,  # where a sampler notes what it is to know later
                )
            )
            return number, lock

    def _lock(self, number: int) -> Lock:
        lock = self.store.lock(f"trials/{number:04d}")
        if not lock.acquire(wait=False):
            worker = self.study.get_trials(deepcopy=False)[number].user_attrs["worker"]
            who = f"process {worker['pid']} on {worker['host']}"
            raise SearchError(f"{self.folder}: trial {number} is being run by {who}; wait for it, or end it")
        return lock

    def _sampled(self, past: Sequence[FrozenTrial]) -> FrozenTrial:
        """Draw the values of the trial that comes after `past`."""
        sampler = self.sampler(derive(self.seed, "trial", len(past)) % 2**32, self.seed)  # NumPy takes 32 bits
        scratch = optuna.create_study(direction=self.config.direction, sampler=sampler)
        scratch.add_trials(past)
        suggest(scratch.ask(), self.config.space)
        return scratch.get_trials(deepcopy=False)[-1]

    def run(self, number: int, objective: Objective) -> None:
        """Run a trial to its end and record it."""
        trial = Trial(self.study, self._id(number))
        overrides = _ordered(trial.params, self.config)
        folder = self.folder / "trials" / f"{number:04d}"
        folder.mkdir(exist_ok=True)
        logger.info("trial %d: %s", number, ", ".join(f"{path}={value}" for path, value in overrides.items()))
        try:
            if self._prunes(number):  # killed between its last evaluation and the end that this evaluation called for
                raise optuna.TrialPruned
            value = float(objective(overrides, number, folder, self._reporter(trial)))
            _check_finite(value, self.config.metric)
        except optuna.TrialPruned:
            self.study.tell(number, state=TrialState.PRUNED)
        except Exception as error:
            logger.warning("trial %d failed: %s", number, error, exc_info=True)
            sentence = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.store.storage.set_trial_user_attr(self._id(number), "failure", sentence)
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)
        ended = self._record(self.study.get_trials(deepcopy=False)[number])
        logger.info("trial %d is %s: %s", number, ended.state, ended.value)

    def _prunes(self, number: int) -> bool:
        return should_prune(self.study, number, self.config, self.seed)

    def _reporter(self, trial: Trial) -> Report:
        """Return the `report` of a trial; it knows the evaluations that an earlier process reported."""
        known = dict(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def report(step: int, value: float) -> None:
            _check_finite(value, f"the evaluation at step {step}")
            if step in known:  # decided then, or when the trial was taken up again: it goes on
                if known[step] != value:
                    logger.warning(
                        "trial %d: step %d gave %r before the kill and %r now; the first counts",
                        *(trial.number, step, known[step], value),
                    )
                return
            if known and step < max(known):
                raise ValueError(f"evaluations must be reported in order of their steps; got {step} after {max(known)}")
            trial.report(value, step)
            known[step] = float(value)
            if self._prunes(trial.number):
                raise optuna.TrialPruned

        return report

    def records(self) -> list[Record]:
        """The finished trials among those that the search is to have."""
        trials = self.study.get_trials(deepcopy=False)[: self.config.max_trials]
        return [self._record(trial) for trial in trials if trial.state.is_finished()]

    def _record(self, trial: FrozenTrial) -> Record:
        parameters = _ordered(trial.params, self.config)
        evaluations = dict(sorted(trial.intermediate_values.items()))
        failure = trial.user_attrs.get("failure") if trial.state == TrialState.FAIL else None
        return Record(trial.number, _STATES[trial.state], trial.value, parameters, evaluations, failure)

    def _id(self, number: int) -> int:
        study_id = self.store.storage.get_study_id_from_name(self.store.name)
        found: int = self.store.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return found


def _check_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite; got {value}")


def _ordered(drawn: dict[str, Any], config: SearchConfig) -> dict[str, Any]:
    """Return the values of a trial in the order of the space; dimensions that do not apply have none."""
    return {path: drawn[path] for path in config.space if path in drawn}


def _worker() -> dict[str, Any]:
    """Who runs a trial, for people; whether it lives is told by the lock."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


@contextmanager
def without_optuna_info() -> Iterator[None]:
    """Keep Optuna from announcing each scratch study."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
