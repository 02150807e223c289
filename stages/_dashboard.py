"""The server of Optuna's dashboard over all searches of a project: `python -m stages._dashboard --root ROOT --port N`.

The dashboard shows one storage, and each search has a journal of its own. So the journals are read, again and again,
into one storage in memory, where every search is a study; or the dashboard shows the database that MLML_OPTUNA_STORAGE
names. Nothing is written to either: a study that was changed from a page would not be what its declaration says.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from mlml.search._storage import JOURNAL, VARIABLE, StorageError

SECONDS = 1.0
"""Between two looks at the journals."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]
"""Of WSGI."""


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """A journal that others write: it is neither made nor locked, and a line that is half written is left for later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read_bytes = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the operations since the last call."""
        with self.path.open("rb") as file:
            file.seek(self.read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield json.loads(line)
                self.read_bytes += len(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse to write."""
        raise NotImplementedError(f"{self.path}: is only looked at")


@dataclass
class _Shown:
    """A journal and its study in the mirror.

    Attributes:
        first: line of the journal, which holds when and by whom the study was begun.
        seen: state of the file when it was read.
        study: in the mirror; None while the journal holds none, or cannot be read.
    """

    first: bytes
    journal: Journal
    seen: tuple[int, ...] = ()
    storage: JournalStorage | None = None
    study: int | None = None


class Mirror:
    """The searches of a project, each a study, with the trials that run and those that are over.

    A study keeps its id, and a trial its number, for as long as the journal is the same: an open page goes on.
    """

    def __init__(self, root: Path) -> None:
        self.storage = InMemoryStorage()
        self._runs = root / ".mlml" / "runs"
        self._shown: dict[Path, _Shown] = {}

    def update(self) -> None:
        """Bring the studies to what the journals say now."""
        found = {}
        for path in self._runs.glob(f"search@*/*/study/{JOURNAL}"):
            try:
                status = path.stat()
                with path.open("rb") as file:
                    first = file.readline()
            except OSError:  # it went away
                continue
            found[path] = first, (status.st_ino, status.st_size, status.st_mtime_ns)
        for path in [*self._shown]:
            if path not in found or not self._is_same(self._shown[path], *found[path]):
                self._forget(self._shown.pop(path))
        # the last one written is the newest study of a dashboard that is started after them all
        for path, (first, seen) in sorted(found.items(), key=lambda item: item[1][1][-1]):
            shown = self._shown.setdefault(path, _Shown(first, Journal(path)))
            if seen != shown.seen:
                shown.seen = seen
                self._read(path, shown)

    def _is_same(self, shown: _Shown, first: bytes, seen: tuple[int, ...]) -> bool:
        """Whether a journal is the one that was read before, not another in its place."""
        return first == shown.first and seen[1] >= shown.journal.read_bytes

    def _read(self, path: Path, shown: _Shown) -> None:
        try:
            shown.storage = shown.storage or JournalStorage(shown.journal)
            for study in shown.storage.get_all_studies():  # there is one
                if shown.study is None:
                    name = f"{path.parents[2].name} {path.parents[1].name}"
                    shown.study = self.storage.create_new_study(study.directions, name)
                for key, value in study.user_attrs.items():
                    self.storage.set_study_user_attr(shown.study, key, value)
                for key, value in study.system_attrs.items():
                    self.storage.set_study_system_attr(shown.study, key, value)
                self._bring(shown.study, shown.storage.get_all_trials(study._study_id, deepcopy=False))
        except FileNotFoundError:  # it went away; the next look finds that out
            return
        except Exception as error:  # one that is damaged must not hide the others
            print(f"{path}: cannot be read ({type(error).__name__}: {error})", file=sys.stderr, flush=True)
            self._forget(shown)
            shown.journal = Journal(path)

    def _bring(self, study: int, trials: Sequence[FrozenTrial]) -> None:
        """Add the trials that are new, and bring those that ran to what they are now."""
        known = self.storage.get_all_trials(study, deepcopy=False)
        for old, new in zip(known, trials, strict=False):
            if not old.state.is_finished():
                self._go_on(old, new)
        for trial in trials[len(known) :]:
            self.storage.create_new_trial(study, trial)

    def _go_on(self, old: FrozenTrial, new: FrozenTrial) -> None:
        for step, value in new.intermediate_values.items():
            if old.intermediate_values.get(step) != value:
                self.storage.set_trial_intermediate_value(old._trial_id, step, value)
        for key, value in new.user_attrs.items():
            self.storage.set_trial_user_attr(old._trial_id, key, value)
        for key, value in new.system_attrs.items():
            self.storage.set_trial_system_attr(old._trial_id, key, value)
        if new.state.is_finished():
            self.storage.set_trial_state_values(old._trial_id, new.state, new.values)
            self.storage.get_trial(old._trial_id).datetime_complete = new.datetime_complete  # not when it was seen

    def _forget(self, shown: _Shown) -> None:
        if shown.study is not None:
            self.storage.delete_study(shown.study)
        shown.study = shown.storage = None


class Server(ThreadingMixIn, WSGIServer):
    """A page asks for several things at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *words: Any) -> None:
        """Write nothing: a page that is open asks every few seconds."""


def read_only(application: Application) -> Application:
    """Refuse every request that would change something."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
        return [json.dumps({"reason": "This page shows searches; only a search changes them."}).encode()]

    return answer


def pages(storage: BaseStorage) -> Application:
    """Return the dashboard over a storage."""
    # it imports BoTorch where it can, for samplers that show nothing: 3 s and 0.5 GB
    sys.modules.setdefault("botorch", None)  # type: ignore[arg-type]
    from optuna_dashboard import wsgi

    return read_only(wsgi(storage))


def searches(root: Path) -> BaseStorage:
    """Return the storage to show: the database that the environment names, else one that follows the journals.

    Raises:
        StorageError: the database cannot be used.
    """
    url = os.environ.get(VARIABLE)
    if url:
        from mlml.search import _database

        return _database.open_store(url, "").storage
    mirror = Mirror(root)
    mirror.update()

    def follow() -> None:
        while True:
            time.sleep(SECONDS)
            mirror.update()

    threading.Thread(target=follow, daemon=True).start()
    return mirror.storage


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        application = pages(searches(options.root))
    except StorageError as error:
        raise SystemExit(str(error)) from None
    with Server((options.host, options.port), _Quiet) as server:
        server.set_app(application)
        server.serve_forever()


if __name__ == "__main__":
    main()
