"""The stage of a search: whose trials' runs it ends."""

from unittest.mock import MagicMock

import pytest

from mlml.search._study import Record
from mlml.tracking.run import Run
from stages._searching import _close
from stages._trials import folder_name


@pytest.fixture
def stage(tmp_path):
    """Run anew after a search whose runs still lie in its folder."""
    Run.open(tmp_path, "search@rate", "mlml").finish()
    earlier = Run.open(tmp_path, "search@rate", "mlml")
    for number in range(2):
        Run.open(tmp_path / folder_name(number), "rate", "mlml", parent=tmp_path).finish()
    earlier.finish()
    run = Run.open(tmp_path, "search@rate", "mlml")
    stage = MagicMock(folder=tmp_path, run=run, last_tags={})
    stage.nested_run.side_effect = lambda label, *_, **__: Run.open(tmp_path / label, "rate", "mlml", parent=tmp_path)
    yield stage
    run.leave()


def trial(number):
    return Record(number, "failed", None, {"rate": 0.1}, {}, "ValueError: lost")


def test_a_trial_of_another_machine_is_closed_there_whatever_an_earlier_search_left_here(stage):
    for number in (0, 2):
        _close(stage, trial(number), {})
    stage.nested_run.assert_not_called()
    assert stage.last_tags == {}


def test_a_trial_of_a_worker_here_is_said_how_it_ended(stage):
    folder = stage.folder / folder_name(1)
    Run.open(folder, "rate", "mlml", parent=stage.folder).leave()
    _close(stage, trial(1), {})
    assert stage.last_tags == {folder: {"mlml.trial.state": "failed", "mlml.trial.failure": "ValueError: lost"}}
