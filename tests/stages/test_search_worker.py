"""A process that takes part in a search from another machine than its stage's: whose runs are its own to end."""

from types import SimpleNamespace

import pytest
import torch
from blobs import write_prepared
from ruamel.yaml import YAML

from mlml import declaration
from mlml.search._study import begin_study
from mlml.search.random import Random
from mlml.tracking import store
from mlml.tracking.run import ALIVE_LOCK, Record, Run, lock_file
from stages import _lineage, _trials
from stages._search_worker import Participant
from stages.prepare import PREPARED

SMALL = {
    "dataset": "blobs",
    "encoder": {"network": "mlp", "hidden_widths": [8]},
    "train": {"steps": 4, "batch_size": 32, "log_every": 2, "evaluate_every": 2, "checkpoint_every": 2},
}
SEARCH = {
    "method": "random",
    "experiment": "classifier",
    "objective": "classifier",
    "dataset": "blobs",
    "space": {"train.optimizer.learning_rate": {"type": "float", "low": 0.001, "high": 0.1}},
    "trials": 3,
}
CONTENT = {
    "threads": torch.get_num_threads(),
    "data": {"blobs": {"source": "digits"}},
    "supervised": {"classifier": {"method": "classifier", **SMALL}},
    **{family: {} for family in ("pretext", "probe", "generative")},
    "search": {"rate": SEARCH},
}


def at_mlflow(run_id, status, **tags):
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id, status=status), data=SimpleNamespace(tags=tags))


@pytest.fixture
def known(monkeypatch):
    """What MLflow has of the search, newest first; each look takes the first of the list, but for the last."""
    answers = [[]]

    def find_runs(uri, wanted):
        assert wanted == {"dvc.stage": "search@rate", "dvc.key": lineage().key}
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(store, "find_runs", find_runs)
    return answers


def lineage(*_):
    return _lineage.Lineage("search@rate", "python -m stages search rate", {}, {}, ())


@pytest.fixture
def participant(tmp_path, monkeypatch, known):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_lineage, "of", lineage)
    write_prepared(tmp_path / PREPARED / "blobs")
    YAML().dump(CONTENT, tmp_path / "params.yaml")
    participant = Participant("rate")
    config = Random.Config.model_validate(declaration.read().experiments["rate"].config.model_dump())
    begin_study(config, Random(config).sampler, participant.folder / "study", 0)
    return participant


def watch(number):
    return lambda fault: None


def records(participant):
    return [Record.read(participant.folder / f"trial_{number:04d}") for number in range(3)]


def is_open(participant, number):
    lock = lock_file(participant.folder / f"trial_{number:04d}" / ALIVE_LOCK, 0)
    if lock is not None:
        lock.close()
    return lock is None


def test_a_stage_is_here_where_its_run_is_not_over(participant):
    """A search that has ended here may be run again, on another machine."""
    assert Participant("rate").elsewhere
    run = Run.open(participant.folder, "search@rate", "mlml")
    assert not Participant("rate").elsewhere
    run.leave()  # killed, and to be run again
    assert not Participant("rate").elsewhere
    Run.open(participant.folder, "search@rate", "mlml").finish()
    assert Participant("rate").elsewhere


def test_it_ends_the_runs_of_its_trials_and_nests_them_in_that_of_the_stage(participant, known):
    known[:] = [[at_mlflow("new", "RUNNING"), at_mlflow("old", "FINISHED")]]
    assert participant.take_part(watch) == 3
    for number, record in enumerate(records(participant)):
        assert (record.status, record.parent, record.name) == ("FINISHED", None, f"rate trial_{number:04d}")
        told = {"mlml.trial": str(number), "mlml.trial.state": "complete", "mlflow.parentRunId": "new"}
        assert told.items() <= record.tags.items()
        assert not is_open(participant, number)
    assert not list(participant.folder.rglob("*.ckpt"))


def test_mlflow_may_have_the_stage_s_run_late_and_be_away_before(participant, known):
    """A nested run is no parent, nor one that an earlier search left."""
    nested = {"mlflow.parentRunId": "at work"}
    known[:] = [
        ConnectionError("away"),
        [at_mlflow("nested", "RUNNING", **nested), at_mlflow("old", "FINISHED")],
        [at_mlflow("nested", "RUNNING", **nested), at_mlflow("at work", "RUNNING")],
        AssertionError("asked again"),
    ]
    participant.take_part(watch)
    parents = [record.tags.get("mlflow.parentRunId") for record in records(participant)]
    assert parents == [None, "at work", "at work"]


def test_a_trial_that_failed_says_why_as_the_search_does(participant, monkeypatch):
    """Also where that was found in what the trial returned."""
    call = _trials.Trials.__call__

    def trial(self, values, number, folder, report):
        found = call(self, values, number, folder, report)
        if number == 0:
            raise ValueError("lost\nits way")
        return [float("nan")] if number == 1 else found

    monkeypatch.setattr(_trials.Trials, "__call__", trial)
    participant.take_part(watch)
    told = [(record.tags["mlml.trial.state"], record.tags["mlml.trial.failure"]) for record in records(participant)]
    reason = "ValueError: validation/loss must be finite; got nan"
    assert told == [("failed", "ValueError: lost its way"), ("failed", reason), ("complete", "")]
    assert {record.status for record in records(participant)} == {"FINISHED"}


def test_a_trial_in_which_it_is_interrupted_is_another_s_to_end(participant, monkeypatch):
    call, faults = _trials.Trials.__call__, []

    def trial(self, values, number, folder, report):
        found = call(self, values, number, folder, report)
        if number == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(_trials.Trials, "__call__", trial)
    with pytest.raises(KeyboardInterrupt):
        participant.take_part(lambda number: faults.append)
    first, second, third = records(participant)
    assert (first.status, first.tags["mlml.trial.state"]) == ("FINISHED", "complete")
    assert (second.status, "mlml.trial.state" in second.tags, third) == ("RUNNING", False, None)
    assert not is_open(participant, 1)
    assert [fault and fault[0] for fault in faults] == [None, "KeyboardInterrupt"]
    assert list(participant.folder.rglob("trial_0001/*.ckpt"))  # it may go on from there


def test_here_the_stage_ends_the_runs(participant, known):
    stage = Run.open(participant.folder, "search@rate", "mlml")
    known[:] = [AssertionError("the stage's run is here")]
    participant.take_part(watch)
    assert {(record.status, record.parent_id) for record in records(participant)} == {("RUNNING", stage.record.id)}
    assert not any("mlml.trial.state" in record.tags for record in records(participant))
    stage.finish()
