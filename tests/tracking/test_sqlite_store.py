"""MLflow's sqlite file, whatever it was before: new, of an older MLflow, of a newer one, half migrated."""

import contextlib
import multiprocessing
import sqlite3

import pytest

from mlml.tracking import sqlite_store
from mlml.tracking.run import Run, TrackingError
from mlml.tracking.store import find_runs, prepare_store, warm_up
from mlml.tracking.sync import sync

PATIENCE = 300.0  # seconds; far above what a busy machine needs


def one_of_many(root, number, begin, faults):
    with Run.open(root / ".mlml" / "runs" / number, number, "together") as run:
        run.log("loss", 1.0)
    begin.wait()
    result = sync(run.folder, f"sqlite:///{root / '.mlml' / 'mlflow.db'}")
    faults.put((result.fault, result.points))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A store of an MLflow some releases ago: its first tables, and not all migrations since."""
    import sqlalchemy
    from alembic import command
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    path = tmp_path_factory.mktemp("old") / "mlflow.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool)
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{sqlite_store.newest_revision()}-6")
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('of old', 'active')")
    database.commit()
    database.close()
    return path


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    path = tmp_path_factory.mktemp("new") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(old, tmp_path):
    """A copy of the old store."""
    return copied(old, tmp_path)


@pytest.fixture
def ready(new, tmp_path):
    """A copy of a store that is as the installed MLflow wants it."""
    return copied(new, tmp_path)


def copied(path, folder):
    copy = folder / ".mlml" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    return copy


@contextlib.contextmanager
def opened(path):
    database = sqlite3.connect(path)
    yield database
    database.commit()
    database.close()


def experiments(path):
    with opened(path) as database:
        return {name for (name,) in database.execute("SELECT name FROM experiments")}


def beside(path):
    return {other.name for other in path.parent.iterdir()} - {path.name, f"{path.name}.lock", "runs"}


def test_the_newest_revision_is_what_mlflow_says():
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert sqlite_store.newest_revision() == _get_latest_schema_revision()


def test_many_processes_on_a_store_of_an_older_mlflow(store, tmp_path):
    assert sqlite_store.revision(store) != sqlite_store.newest_revision()
    warm_up(f"sqlite:///{store}")  # then forked processes need not import MLflow each for itself
    context = multiprocessing.get_context("fork")
    begin, results = context.Barrier(6), context.Queue()
    began = [context.Process(target=one_of_many, args=(tmp_path, f"{n}", begin, results)) for n in range(6)]
    for process in began:
        process.start()
    for process in began:
        process.join(PATIENCE)
    assert [process.exitcode for process in began] == [0] * 6
    assert [results.get(timeout=PATIENCE) for _ in began] == [(None, 1)] * 6
    assert sqlite_store.revision(store) == sqlite_store.newest_revision()
    assert sqlite_store.has_write_ahead_log(store)
    assert experiments(store) == {"Default", "of old", "together"}
    assert beside(store) == set()
    assert len(find_runs(f"sqlite:///{store}", {"mlflow.runName": "2"})) == 1


def test_a_migration_killed_in_the_middle_is_done_again(store, monkeypatch):
    from mlflow.store.db import utils

    class Killed(BaseException):
        pass

    def half(engine):
        with opened(store) as database:
            database.execute("DROP TABLE experiments")
            database.execute(f"UPDATE alembic_version SET version_num = '{sqlite_store.newest_revision()}'")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", half)
        with pytest.raises(Killed):
            prepare_store(f"sqlite:///{store}")
    prepare_store(f"sqlite:///{store}")
    assert sqlite_store.revision(store) == sqlite_store.newest_revision()
    assert experiments(store) == {"of old"}
    assert beside(store) == set()


def test_a_migration_that_fails_leaves_the_store_as_it_was(store, monkeypatch):
    from mlflow.store.db import utils

    def fail(engine):
        with opened(store) as database:
            database.execute("DROP TABLE experiments")
        raise OSError("the disk is full")

    before = sqlite_store.revision(store)
    monkeypatch.setattr(utils, "_upgrade_db", fail)
    with pytest.raises(TrackingError, match=r"could not migrate.*the disk is full.*as it was"):
        prepare_store(f"sqlite:///{store}")
    assert (sqlite_store.revision(store), experiments(store), beside(store)) == (before, {"of old"}, set())


def test_a_store_that_is_ready_gets_only_its_write_ahead_log(ready):
    with opened(ready) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('mine', 'active')")
    assert not sqlite_store.has_write_ahead_log(ready)
    prepare_store(f"sqlite:///{ready}")
    assert sqlite_store.has_write_ahead_log(ready)
    assert experiments(ready) == {"Default", "mine"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE alembic_version SET version_num = 'of_tomorrow'", "made by a newer MLflow .tables of_tomorrow."),
        ("DELETE FROM alembic_version", "no whole MLflow store; move it away"),
    ],
)
def test_what_cannot_be_migrated_is_left_alone(store, change, sentence):
    with opened(store) as database:
        database.execute(change)
    content = store.read_bytes()
    with pytest.raises(TrackingError, match=sentence):
        prepare_store(f"sqlite:///{store}")
    assert store.read_bytes() == content


def test_a_file_of_another_kind_is_left_alone(store):
    store.write_text("no database" * 100)
    with pytest.raises(TrackingError, match=r"cannot be read \(file is not a database\)"):
        prepare_store(f"sqlite:///{store}")
    assert store.read_text().startswith("no database")


def test_reading_leaves_nothing_beside_the_file(ready):
    database = sqlite_store.read_only(ready)
    assert sqlite_store.revision_of(database, ready) == sqlite_store.newest_revision()
    assert beside(ready) == set()
    database.close()
    writer = sqlite3.connect(ready)  # with somebody at work, what is in the log only is read, too
    writer.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('in the log', 'active')")
    writer.commit()
    database = sqlite_store.read_only(ready)
    assert ("in the log",) in database.execute("SELECT name FROM experiments").fetchall()
