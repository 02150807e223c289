"""A study that may be killed at any moment: run again, it ends as if it had never been killed.

What makes it so:
- the values of trial n are a function of (seed, n, what it may know of the trials before it: `mlml.search._past`): a
  sampler serves one trial, drawing on a scratch copy of the past, so that no hidden state of a sampler has to survive;
- a trial enters the journal whole, in one line, with all of its values;
- a trial that its process left unfinished keeps its number and values and is run again in its own folder, where the
  objective goes on from its checkpoint; an evaluation that the journal already has is not written again, and a
  decision not to prune, once gone by, stays;
- a trial is being run exactly as long as a process holds its lock, the kernel's or the database's; so any number of
  processes may take part in one search, and each finds the trials that a dead one left.
"""

import logging
import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import optuna
import psutil
from optuna import TrialPruned
from optuna.trial import FrozenTrial, TrialState

from mlml.config import SearchConfig
from mlml.search._past import CONTINUES, RUNG, horizon, past_of, scratch
from mlml.search._pruning import should_prune
from mlml.search._rungs import is_at_rung, to_promote, without_continued
from mlml.search._space import suggest
from mlml.search._storage import Lock, Store, has_study, open_store
from mlml.seeds import derive
from mlml.train_state import Pause

logger = logging.getLogger(__name__)


class Report(Protocol):
    """Takes (step, value) of an evaluation; raises a TrialPruned when the trial is to end here.

    Attributes:
        continues: number of the trial from whose checkpoint this one goes on; None: it begins.
        ended: how many processes ended in the middle of it.
    """

    continues: int | None
    ended: int

    def __call__(self, step: int, value: float, /) -> None: ...


Objective = Callable[[dict[str, Any], int, Path, Report], float | Sequence[float]]
"""Runs one trial: (values by dotted path, number of the trial, folder of the trial, report) -> value.

The folder is its alone, and not there until the objective makes it. With further objectives it returns one value for
each, in the order of `SearchConfig.directions`.
"""

MakeSampler = Callable[[int, int], optuna.samplers.BaseSampler]
"""Makes the sampler of one trial: (seed of the trial, seed of the search) -> sampler; `sampler` of the methods."""

_STATES: dict[Any, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


POLL_SECONDS = 0.1
"""Between two looks for a trial to run, while others are being run elsewhere."""

MAX_ENDS = 10
"""A trial that ended so many processes, and came to no evaluation in between, has failed."""


class Paused(TrialPruned, Pause):  # type: ignore[misc]
    """Raised by `Report` where another trial may go on from."""


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
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    parameters: dict[str, Any]
    evaluations: dict[int, float]
    failure: str | None
    further: dict[str, float] = {}  # noqa: RUF012
    continues: int | None = None


def run_study(
    config: SearchConfig, sampler: MakeSampler, folder: Path, objective: Objective, seed: int, name: str = "search"
) -> list[Record]:
    """Run a search to its end, going on with what there is of it; arguments and result are those of `take_part`.

    Raises:
        SearchError: `folder` holds another search, or no trial was completed.
    """
    records = take_part(config, sampler, folder, objective, seed, name)
    if not any(record.state == "complete" for record in records):
        first = next((record.failure for record in records if record.failure), "it was pruned")
        raise SearchError(f"{folder}: none of {len(records)} trials was completed; the first said: {first}")
    return records


def begin_study(config: SearchConfig, sampler: MakeSampler, folder: Path, seed: int, name: str = "search") -> None:
    """Begin a search that others may join, and run no trial; arguments as of `take_part`."""
    with without_optuna_info():
        _Search.open(config, sampler, folder, seed, name, join=False)


def take_part(
    config: SearchConfig,
    sampler: MakeSampler,
    folder: Path,
    objective: Objective,
    seed: int,
    name: str = "search",
    join: bool = False,
    on_end: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Run trials of a search until all have ended, here or elsewhere.

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
        join: take part in a search that another process has begun.
        on_end: hears of each trial that has ended here.

    Returns:
        One record for each trial, by number.

    Raises:
        SearchError: `folder` holds another search, or none to join.
    """
    with without_optuna_info():
        search = _Search.open(config, sampler, folder, seed, name, join)
        while not search.work(objective, on_end):
            time.sleep(POLL_SECONDS)
        return search.records()


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
        cls, config: SearchConfig, sampler: MakeSampler, folder: Path, seed: int, name: str, join: bool
    ) -> "_Search":
        """Open the study, or begin it."""
        if join and not has_study(folder, name):
            raise SearchError(
                f"{folder}: no search is under way with this code, data and numbers; begin it by 'mlml repro'"
            )
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        # more trials, or time, of the same search go on with it, so these numbers may change
        numbers = config.model_dump(mode="json", exclude={"trials", "seconds"})
        declared = {"of": type(config).__module__, "seed": seed, **numbers}
        store = open_store(folder, name)
        with store.lock("study"):
            study = optuna.create_study(
                storage=store.storage,
                study_name=store.name,
                directions=list(config.directions.values()),
                sampler=optuna.samplers.RandomSampler(),  # asked for nothing: see `_sampled`
                pruner=optuna.pruners.NopPruner(),  # not asked either: see `should_prune`
                load_if_exists=True,
            )
            held = study.user_attrs.get("declared")
            if held is None:
                study.set_user_attr("declared", declared)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(list(config.directions))  # for the dashboard
            elif held != declared:
                differing = sorted(key for key in {*held, *declared} if held.get(key) != declared.get(key))
                raise SearchError(
                    f"{folder}: holds a search with another {', '.join(differing)}; remove it or use another folder"
                )
        return cls(config, sampler, folder, seed, store, study)

    def work(self, objective: Objective, on_end: Callable[[Record], None] | None = None) -> bool:
        """Run trials as long as there are some to run; return whether all have ended, else others are running some."""
        while (claimed := self.claim()) is not None:
            number, lock = claimed
            try:
                ended = self.run(number, objective)
                if on_end is not None:
                    on_end(ended)
            finally:
                lock.release()
        trials = self.study.get_trials(deepcopy=False)[: self.config.max_trials]
        return self._is_full(trials) and all(trial.state.is_finished() for trial in trials)

    def claim(self) -> tuple[int, Lock] | None:
        """Take the next trial: one that a dead process left, else a new one; None when there is none to run now.

        Returns:
            The number of the trial, and the lock that says that it is being run.
        """
        with self.store.lock("study"):
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials[: self.config.max_trials]:
                if trial.state == TrialState.RUNNING:
                    lock = self.store.lock(f"trials/{trial.number:04d}")
                    if lock.acquire(wait=False):
                        now = self.study.get_trials(deepcopy=False)[trial.number]
                        # it may have ended, and its lock with it, since `trials` were read
                        if now.state == TrialState.RUNNING and self._take_over(now):
                            return trial.number, lock
                        lock.release()
            trials = self.study.get_trials(deepcopy=False)
            number = len(trials)
            must_end = trials[: horizon(number, self.config.workers)]
            if self._is_full(trials) or not all(trial.state.is_finished() for trial in must_end):
                return None
            lock = self.store.lock(f"trials/{number:04d}")
            lock.acquire()
            self.study.add_trial(self._next(past_of(trials, number, self.config.workers)))
            return number, lock

    def _is_full(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether no trial is to begin any more."""
        config = self.config
        if config.max_trials is not None and len(trials) >= config.max_trials:
            return True
        taken = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
        return config.seconds is not None and taken >= config.seconds * config.workers

    def _take_over(self, trial: FrozenTrial) -> bool:
        """Mark that a trial's process has ended before it, and be its process; false where it fails by that."""
        ended = [*trial.user_attrs.get("ended", []), {**trial.user_attrs["worker"], "evaluation": trial.last_step}]
        trial_id = self._id(trial.number)
        self.store.storage.set_trial_user_attr(trial_id, "ended", ended)
        who = f"process {ended[-1]['pid']} on {ended[-1]['host']}"
        if len(ended) >= MAX_ENDS and len({end["evaluation"] for end in ended[-MAX_ENDS:]}) == 1:
            self._fail(trial.number, f"{MAX_ENDS} processes ended in it without an evaluation, the last {who}")
            return False
        self.store.storage.set_trial_user_attr(trial_id, "worker", _worker())
        logger.info("trial %d goes on where %s left it", trial.number, who)
        return True

    def _next(self, past: Sequence[FrozenTrial]) -> FrozenTrial:
        """Return the trial that comes after `past`: its values, and what it goes on from."""
        attributes: dict[str, Any] = {"worker": _worker()}
        if self.config.pruner == "asha":
            promoted = to_promote(past, self.config)
            if promoted is not None:
                going_on, rung = promoted
                return optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=going_on.params,
                    distributions=going_on.distributions,
                    user_attrs={**attributes, CONTINUES: going_on.number, RUNG: rung},
                    intermediate_values=going_on.intermediate_values,
                )
            attributes[RUNG] = 0
        drawn = self._sampled(past)
        return optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs=attributes,
            system_attrs=drawn.system_attrs,  # where a sampler notes what it is to know later
        )

    def _sampled(self, past: Sequence[FrozenTrial]) -> FrozenTrial:
        """Draw the values of the trial that comes after `past`."""
        sampler = self.sampler(derive(self.seed, "trial", len(past)) % 2**32, self.seed)  # NumPy takes 32 bits
        known = without_continued(past) if self.config.pruner == "asha" else past
        study = scratch(known, list(self.config.directions.values()), sampler)
        trial = study.ask()
        suggest(trial, self.config.space)
        return study._storage.get_trial(trial._trial_id)

    def run(self, number: int, objective: Objective) -> Record:
        """Run a trial to its end and record it."""
        trial, began = self.study.get_trials(deepcopy=False)[number], time.monotonic()
        overrides = _ordered(trial.params, self.config)
        folder = self.folder / "trials" / f"{number:04d}"
        logger.info("trial %d: %s", number, ", ".join(f"{path}={value}" for path, value in overrides.items()))
        try:
            if self._prunes(number):  # killed between its last evaluation and the end that this evaluation called for
                raise TrialPruned
            found = objective(overrides, number, folder, _Reporter(self, trial))
            values = [float(value) for value in ([found] if isinstance(found, int | float) else found)]
            for metric, value in zip(self.config.directions, values, strict=True):
                _check_finite(value, metric)
        except TrialPruned:
            self._note_time(number, began)
            self.study.tell(number, state=TrialState.PRUNED)
        except Exception as error:
            logger.warning("trial %d failed: %s", number, error, exc_info=True)
            self._note_time(number, began)
            self._fail(number, f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            self._note_time(number, began)
            self.study.tell(number, values)
        ended = self._record(self.study.get_trials(deepcopy=False)[number])
        logger.info("trial %d is %s: %s", number, ended.state, ended.value)
        return ended

    def _fail(self, number: int, sentence: str) -> None:
        self.store.storage.set_trial_user_attr(self._id(number), "failure", sentence)
        self.study.tell(number, state=TrialState.FAIL)

    def _note_time(self, number: int, began: float) -> None:
        """Keep how long a trial took, where that is what the search ends by."""
        if self.config.seconds is not None:
            self.store.storage.set_trial_user_attr(self._id(number), "seconds", time.monotonic() - began)

    def _prunes(self, number: int) -> bool:
        return should_prune(self.study, number, self.config, self.seed)

    def records(self) -> list[Record]:
        """The finished trials among those that the search is to have."""
        trials = self.study.get_trials(deepcopy=False)[: self.config.max_trials]
        return [self._record(trial) for trial in trials if trial.state.is_finished()]

    def _record(self, trial: FrozenTrial) -> Record:
        values = dict(zip(self.config.directions, trial.values or [None], strict=False))
        return Record(
            trial.number,
            _STATES[trial.state],
            values.pop(self.config.metric),
            _ordered(trial.params, self.config),
            dict(sorted(trial.intermediate_values.items())),
            trial.user_attrs.get("failure") if trial.state == TrialState.FAIL else None,
            values,
            trial.user_attrs.get(CONTINUES),
        )

    def _id(self, number: int) -> int:
        found: int = self.store.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        return found


class _Reporter:
    """The `Report` of a trial; it knows the evaluations that an earlier process reported."""

    def __init__(self, search: _Search, trial: FrozenTrial) -> None:
        self._search, self._number = search, trial.number
        self._known = dict(trial.intermediate_values)
        self.continues: int | None = trial.user_attrs.get(CONTINUES)
        self.ended = len(trial.user_attrs.get("ended", []))
        self._rung: int | None = trial.user_attrs.get(RUNG)

    def __call__(self, step: int, value: float, /) -> None:
        _check_finite(value, f"the evaluation at step {step}")
        known, number = self._known, self._number
        if step in known:  # decided then, or when the trial was taken up again: it goes on
            if known[step] != value:
                logger.warning(
                    "trial %d: step %d gave %r before the kill and %r now; the first counts",
                    *(number, step, known[step], value),
                )
            self._stop_at_rung(step)
            return
        if known and step < max(known):
            raise ValueError(f"evaluations must be reported in order of their steps; got {step} after {max(known)}")
        if self._search.config.further_objectives:
            return  # Optuna keeps none of several objectives, and nothing is pruned
        known[step] = float(value)
        self._search.store.storage.set_trial_intermediate_value(self._search._id(number), step, known[step])
        self._stop_at_rung(step)
        if self._search._prunes(number):
            raise TrialPruned

    def _stop_at_rung(self, step: int) -> None:
        if self._rung is not None and is_at_rung(self._rung, step, self._search.config):
            raise Paused


def _check_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite; got {value}")


def _ordered(drawn: dict[str, Any], config: SearchConfig) -> dict[str, Any]:
    """Return the values of a trial in the order of the space; dimensions that do not apply have none."""
    return {path: drawn[path] for path in config.space if path in drawn}


def _worker() -> dict[str, Any]:
    """Who runs a trial, for people; whether it lives is told by the lock."""
    return _worker_of(os.getpid())


@cache
def _worker_of(pid: int) -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": pid, "started": psutil.Process(pid).create_time()}


@contextmanager
def without_optuna_info() -> Iterator[None]:
    """Keep Optuna from announcing each scratch study."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
