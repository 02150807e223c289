"""A PostgreSQL of the tests' own: Debian's package, on a free port of loopback, in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path:
    """Folder with initdb and postgres; installs Debian's package where that can be done, else skips the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "timeout": 600}
        subprocess.run(["apt-get", "update"], check=False, **quiet)
        subprocess.run(["apt-get", "install", "--yes", "postgresql"], check=False, **quiet)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("Debian's package postgresql is absent, and cannot be installed here")
    return found[-1].parent


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of a fresh server, without the name of a database."""
    binaries = programs()
    folder = Path(tempfile.mkdtemp(prefix="mlml-postgres-"))
    # PostgreSQL refuses to run as root
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    data = folder / "data"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make = [binaries / "initdb", "--pgdata", data, "--username", "mlml", "--auth", "trust", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_user)
    options = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F", "-c", "max_connections=200"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binaries / "postgres", *options], stdout=log, stderr=log, cwd=folder, **as_user)
    address = f"postgresql://mlml@127.0.0.1:{port}"
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "60"]
        while subprocess.run(ready, capture_output=True).returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def make_databases(address: str, *names: str) -> None:
    import psycopg

    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}")
