"""What the dashboard shows is what the journals hold, at any moment, and nothing is written to them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from mlml.search._storage import JOURNAL, VARIABLE, FileLock, journal_storage
from stages import _servers
from stages._dashboard import Mirror, read_only

KEY = "0123456789abcdef"
SPACE = {"train.rate": FloatDistribution(1e-4, 1.0, log=True)}


def journal(root: Path, name: str = "rate", key: str = KEY) -> Path:
    path = root / ".mlml" / "runs" / f"search@{name}" / key / "study" / JOURNAL
    path.parent.mkdir(parents=True)
    return path


def begun(path: Path, **options) -> optuna.Study:
    """A study in a journal, as a search begins it."""
    study = optuna.create_study(storage=journal_storage(path), study_name="search", **options)
    study.set_user_attr("declared", {"metric": "validation/loss"})
    return study


def enter(study: optuna.Study, rate: float = 0.1) -> optuna.trial.Trial:
    """A trial that runs, entered whole."""
    number = len(study.get_trials(deepcopy=False))
    worker = {"worker": {"pid": number}}
    study.add_trial(
        create_trial(state=TrialState.RUNNING, params={"train.rate": rate}, distributions=SPACE, user_attrs=worker)
    )
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def held(trial: optuna.trial.FrozenTrial) -> tuple:
    """Everything that a trial holds, but its id."""
    return (
        *(trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.intermediate_values),
        *(trial.user_attrs, trial.system_attrs, trial.datetime_start, trial.datetime_complete),
    )


def check(mirror: Mirror, study: optuna.Study, name: str = f"search@rate {KEY}") -> int:
    """Compare a study of the mirror with its journal, read by Optuna itself; returns its id."""
    [shown] = [other for other in mirror.storage.get_all_studies() if other.study_name == name]
    trials = mirror.storage.get_all_trials(shown._study_id)
    assert [held(trial) for trial in trials] == [held(trial) for trial in study.get_trials()]
    assert shown.directions == study.directions
    assert shown.user_attrs == study.user_attrs
    assert shown.system_attrs == study._storage.get_study_system_attrs(study._study_id)
    return shown._study_id


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_trials_come_as_they_run_and_end_whoever_ends_first(tmp_path):
    study, mirror = begun(journal(tmp_path), direction="maximize"), Mirror(tmp_path)
    mirror.update()
    shown, ids = check(mirror, study), []
    trials = [enter(study, rate) for rate in (0.1, 0.2, 0.3, 0.4)]

    def look() -> None:
        mirror.update()
        assert check(mirror, study) == shown
        found = [trial._trial_id for trial in mirror.storage.get_all_trials(shown)]
        assert found[: len(ids)] == ids
        ids[:] = found

    trials[0].report(1.0, 5)
    look()
    trials[0].report(2.0, 10)
    study.tell(trials[1], 7.0)  # before the first
    look()
    assert mirror.storage.get_best_trial(shown).number == 1
    trials[2].set_user_attr("failure", "ValueError: no")
    study._storage.set_trial_system_attr(trials[2]._trial_id, "sampler", 3)
    study.tell(trials[2], state=TrialState.FAIL)
    trials[0].report(3.0, 15)
    study.tell(trials[0], state=TrialState.PRUNED)
    study.tell(trials[3], 8.0)
    study.tell(enter(study), 1.0)  # begun and ended between two looks
    study.set_metric_names(["validation/accuracy"])
    look()
    assert [trial.number for trial in mirror.storage.get_all_trials(shown)] == [0, 1, 2, 3, 4]
    assert mirror.storage.get_best_trial(shown).number == 3
    look()


def test_each_search_is_a_study_with_its_own_objectives(tmp_path):
    one = begun(journal(tmp_path, "one"))
    two = begun(journal(tmp_path, "two", "f" * 16), directions=["minimize", "maximize"])
    study = enter(two)
    two.tell(study, [1.0, 2.0])
    mirror = Mirror(tmp_path)
    mirror.update()
    assert check(mirror, one, f"search@one {KEY}") != check(mirror, two, f"search@two {'f' * 16}")


def test_a_line_that_is_being_written_waits(tmp_path):
    path = journal(tmp_path)
    study, mirror = begun(path), Mirror(tmp_path)
    study.tell(enter(study), 1.0)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    before = b"".join(lines[:-1])
    for cut in (0, 1, len(lines[0]) - 1, len(lines[0]), len(before), len(before) + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        mirror.update()
    [trial] = mirror.storage.get_all_trials(mirror.storage.get_all_studies()[0]._study_id)
    assert trial.state == TrialState.RUNNING
    # its writer was killed, and the next one cuts the half line off before it writes
    path.write_bytes(before)
    mirror.update()
    study = optuna.load_study(storage=journal_storage(path), study_name="search")
    study.tell(0, 2.0)
    mirror.update()
    check(mirror, study)


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_a_journal_that_was_begun_anew_is_another_study(tmp_path, trials):
    path = journal(tmp_path)
    study, mirror = begun(path), Mirror(tmp_path)
    study.tell(enter(study), 1.0)
    mirror.update()
    shown = check(mirror, study)
    path.write_bytes(b"")  # the same file for the kernel, which gives numbers of removed files to new ones as well
    study = begun(path, direction="maximize")
    for _ in range(trials):
        study.tell(enter(study), 2.0)
    mirror.update()
    assert check(mirror, study) != shown
    assert len(mirror.storage.get_all_studies()) == 1


def test_a_journal_that_went_away_takes_its_study_along(tmp_path):
    path, other = journal(tmp_path), journal(tmp_path, "other")
    study, mirror = begun(path), Mirror(tmp_path)
    begun(other)
    mirror.update()
    kept = check(mirror, study)
    other.unlink()
    mirror.update()
    assert [shown._study_id for shown in mirror.storage.get_all_studies()] == [kept]
    shutil.rmtree(path.parent)
    mirror.update()
    assert mirror.storage.get_all_studies() == []
    assert not path.parent.exists()


def test_a_damaged_journal_hides_no_other(tmp_path, capsys):
    damaged, mirror = journal(tmp_path, "damaged"), Mirror(tmp_path)
    study = begun(damaged)
    mirror.update()
    check(mirror, study, f"search@damaged {KEY}")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole + b"{nonsense\n")
    study = begun(journal(tmp_path))
    mirror.update()
    check(mirror, study)
    assert len(mirror.storage.get_all_studies()) == 1
    mirror.update()
    [said] = capsys.readouterr().err.splitlines()  # once
    assert said.startswith(f"{damaged}: cannot be read (JSONDecodeError: ")
    damaged.write_bytes(whole)
    mirror.update()
    study = optuna.load_study(storage=journal_storage(damaged), study_name="search")
    check(mirror, study, f"search@damaged {KEY}")


def test_looking_writes_nothing_and_waits_for_no_lock(tmp_path):
    path = journal(tmp_path)
    study = begun(path)
    study.tell(enter(study), 1.0)
    before = {other: (other.stat().st_mtime_ns, other.stat().st_size) for other in tmp_path.rglob("*")}
    lock = FileLock(path.with_name(path.name + ".flock"))
    assert lock.acquire(wait=False)
    mirror = Mirror(tmp_path)
    mirror.update()
    lock.release()
    check(mirror, study)
    assert {other: (other.stat().st_mtime_ns, other.stat().st_size) for other in tmp_path.rglob("*")} == before


def test_only_what_reads_is_let_through():
    passed = []

    def application(environ, start_response):
        passed.append(environ["REQUEST_METHOD"])
        return [b"page"]

    said = []
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        read_only(application)({"REQUEST_METHOD": method}, lambda status, headers: said.append(status))
    assert passed == ["GET", "HEAD"]
    assert said == ["405 Method Not Allowed"] * 5


def ask(url: str, **options):
    with build_opener(ProxyHandler({})).open(Request(url, **options), timeout=30) as answer:
        return answer.status, answer.headers, answer.read()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    yield tmp_path
    _servers.stop(tmp_path)


def test_the_page_answers_and_follows_a_search(root):
    study = begun(journal(root))
    study.tell(enter(study, 0.25), 1.5)
    url = _servers.start_dashboard(root)
    assert url.startswith("http://127.0.0.1:")
    status, headers, page = ask(f"{url}/dashboard")
    assert status == 200
    assert b"/static/bundle.js" in page
    assert ask(f"{url}/static/bundle.js")[0] == 200
    # the browser itself keeps the page from asking anybody else
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    [listed] = json.loads(ask(f"{url}/api/studies")[2])["study_summaries"]
    assert (listed["study_name"], listed["directions"]) == (f"search@rate {KEY}", ["minimize"])
    details = f"{url}/api/studies/{listed['study_id']}"
    [trial] = json.loads(ask(details)[2])["trials"]
    assert (trial["state"], trial["values"]) == ("Complete", [1.5])
    assert trial["params"][0]["param_external_value"] == "0.25"
    study.tell(enter(study), 0.5)
    deadline = time.monotonic() + 60
    while len(found := json.loads(ask(details)[2])["trials"]) < 2 or found[1]["state"] != "Complete":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [trial["values"] for trial in found] == [[1.5], [0.5]]
    for method in ("DELETE", "POST"):
        with pytest.raises(HTTPError, match="405"):
            ask(details, method=method, data=b"{}", headers={"Content-Type": "application/json"})
    assert json.loads(ask(f"{url}/api/studies")[2])["study_summaries"] == [listed]
    assert _servers.start_dashboard(root) == url
    _servers.stop(root)
    assert _servers._alive(_servers._dashboard(root)) is None
    assert not _servers.answers(f"{url}/api/meta", seconds=2.0)


def test_another_storage_is_another_server(root, monkeypatch, capfd):
    first = _servers.start_dashboard(root)
    pid = _servers._alive(_servers._dashboard(root)).pid
    monkeypatch.setenv(VARIABLE, "mysql://somewhere/else")
    assert _servers.start_dashboard(root) is None
    assert capfd.readouterr().err.startswith("Optuna dashboard could not be started, see ")
    log = (root / ".mlml" / "dashboard" / "server.log").read_text()
    assert log == f"{VARIABLE}: must begin with postgresql://; got 'mysql'\n"
    monkeypatch.delenv(VARIABLE)
    assert _servers.start_dashboard(root) == first  # links to its pages hold
    assert _servers._alive(_servers._dashboard(root)).pid != pid


def test_the_dashboard_is_served_without_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from stages import _dashboard; "
        "_dashboard.pages(_dashboard.searches(Path(sys.argv[1]))); assert 'torch' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)


def test_both_ask_for_the_same_variable():
    assert _servers.STUDIES == VARIABLE
