"""A store of Prefect that is up to date: to make one takes the server longer than all the rest of its start."""

import fcntl
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from stages import _servers

CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "prefect"


def seed(root: Path) -> None:
    """Give a project a store in which nothing has run, before its Prefect server starts for the first time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / f"{version('prefect')}-{version('sqlalchemy')}.db"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            home = CACHE / ".mlml" / "prefect"
            home.mkdir(parents=True, exist_ok=True)
            clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            command = [sys.executable, "-P", "-m", "prefect", "server", "database", "upgrade", "-y"]
            environment = {**clean, **_servers.settings(CACHE, clean)}
            subprocess.run(command, env=environment, cwd=CACHE, check=True, capture_output=True)
            _copy(home / "prefect.db", made.with_suffix(".partial"))
            made.with_suffix(".partial").replace(made)
    target = root / ".mlml" / "prefect"
    target.mkdir(parents=True, exist_ok=True)
    _copy(made, target / "prefect.db")


def _copy(source: Path, target: Path) -> None:
    """As sqlite does it, with what its journal holds."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)
