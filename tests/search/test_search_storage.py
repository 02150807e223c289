"""A study that is over stays to be looked at, and is in nobody's way: in a journal, and in a database."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from mlml.search import _storage
from mlml.search._storage import JOURNAL, OVER, VARIABLE, FileLock, Store, begin, close, forget, has_study

NAME = "search@rate/key"


@pytest.fixture(params=["journal", "database"])
def folder(request, tmp_path, monkeypatch) -> Path:
    """The study's folder; its studies lie there, or in a real database, which is not of the kind that is required."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if request.param == "database":
        storage = RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
        monkeypatch.setenv(VARIABLE, "postgresql://nowhere")
        monkeypatch.setattr(
            _storage, "open_store", lambda folder, name: Store(storage, name, lambda part: FileLock(folder / part))
        )
    return tmp_path / "study"


def trials(folder: Path, more: int = 0) -> int:
    """How many trials the study has, after so many more, as a search goes on with it or begins it."""
    (folder / "trials" / "0000").mkdir(parents=True, exist_ok=True)
    (folder / "study.lock").touch()
    store = _storage.open_store(folder, NAME)
    study = optuna.create_study(storage=store.storage, study_name=store.name, load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=more)
    return len(study.trials)


def test_a_study_stays_with_its_run_and_goes_with_the_next(folder):
    begin(folder, NAME, "first")
    assert trials(folder, 2) == 2
    begin(folder, NAME, "first")  # killed midway
    assert trials(folder, 1) == 3
    close(folder, NAME, "first")
    assert not has_study(folder, NAME)
    begin(folder, NAME, "first")  # killed after its end, before its run was finished
    assert has_study(folder, NAME)  # for others to join
    assert trials(folder) == 3
    close(folder, NAME, "first")
    begin(folder, NAME, "second")
    assert not has_study(folder, NAME)
    assert trials(folder, 1) == 1
    assert has_study(folder, NAME)
    begin(folder, NAME, "second")
    assert trials(folder) == 1


def test_a_study_that_was_left_midway_passes_to_the_next_run(folder):
    begin(folder, NAME, "first")
    assert trials(folder, 2) == 2
    begin(folder, NAME, "second")  # the first one's record is gone
    assert trials(folder) == 2


def test_only_a_study_that_is_over_is_forgotten(folder, request):
    trials(folder, 2)
    forget(NAME)
    assert trials(folder) == 2
    close(folder, NAME, "first")
    forget(NAME)
    assert trials(folder) == (0 if "database" in request.node.name else 2)  # a journal goes with its folder
    forget("search@rate/another")


@pytest.fixture
def journal(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "study"


def test_of_the_folder_only_the_journal_stays(journal):
    trials(journal, 2)
    content = (journal / JOURNAL).read_bytes()
    assert len(list(journal.iterdir())) > 2
    close(journal, NAME, "first")
    assert {path.name for path in journal.iterdir()} == {JOURNAL, OVER}
    assert (journal / JOURNAL).read_bytes() == content


def test_killed_while_it_removes_a_study_it_does_not_go_on_with_the_rest(journal, monkeypatch):
    trials(journal, 2)
    close(journal, NAME, "first")

    def killed(path):
        (path / OVER).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_storage.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(journal, NAME, "second")
    begin(journal, NAME, "second")
    assert trials(journal) == 0


def test_a_study_that_another_machine_has_removed_is_closed_all_the_same(folder):
    trials(folder, 1)
    close(folder, NAME, "first")
    forget(NAME)
    folder.mkdir(exist_ok=True)
    close(folder, NAME, "first")
    assert not has_study(folder, NAME)
