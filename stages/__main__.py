"""Run one stage: `python -m stages GROUP [NAME]`, such as `python -m stages pretext simclr`.

The warm parent of the project forks it, if there is one (`stages._warm`); otherwise it runs here. Only the standard
library is imported before that is known.
"""

import array
import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from stages import _warm

WAIT_SECONDS = 120.0
"""How long the parent may take to import; without it, this process would import the same."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT)


def main() -> None:
    """Have the stage forked and end as it does, or run it here."""
    groups = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))
    group, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if group not in groups:
        raise SystemExit(f"python -m stages: {group!r} is no stage; there are {', '.join(groups)}")
    connection = _ask(group, arguments)
    if connection is None:
        gc.set_threshold(200_000, 50, 50)  # as `stages._run`, but for the imports before that
        _warm.run(group, arguments)
    else:
        _end_as(_status(connection))


def _ask(group: str, arguments: list[str]) -> socket.socket | None:
    """Have the stage begun by the warm parent; None when there is none, it declines, or it ends before that."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # as `stages._lineage.store_root`, which would import DVC's world
        folder = _warm.place(Path(os.environ.get("DVC_ROOT", Path.cwd())), os.environ)
        with _warm.address(folder) as path:
            connection.connect(path)
        connection.settimeout(WAIT_SECONDS)
        content = json.dumps(_request(group, arguments)).encode()
        streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
        connection.sendmsg([_warm.LENGTH.pack(len(content))], [streams])
        connection.sendall(content)
        kind, pid = _answer(connection)
        if kind == _warm.READY:
            stage = os.pidfd_open(pid)
            connection.sendall(_warm.GO)
            connection.settimeout(None)
            _forward_signals(stage)
            return connection
    except OSError:
        pass
    connection.close()
    return None


def _request(group: str, arguments: list[str]) -> dict[str, Any]:
    """What is asked for: what the fork takes over from this process, and what it compares."""
    umask = os.umask(0o77)
    os.umask(umask)
    limits = {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
    return {
        "group": group,
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": sys.path,
        "executable": sys.executable,
        "umask": umask,
        "ignored": [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN],
        "limits": {number: resource.getrlimit(number) for number in limits},
        "facts": _warm.facts(),
    }


def _answer(connection: socket.socket) -> tuple[bytes, int]:
    """Next message of the fork or the parent; raises OSError at the end of the connection."""
    content = b""
    while len(content) < _warm.ANSWER.size:
        part = connection.recv(_warm.ANSWER.size - len(content))
        if not part:
            raise ConnectionError("the warm parent has ended")
        content += part
    kind, value = _warm.ANSWER.unpack(content)
    return kind, value


def _forward_signals(stage: int) -> None:
    """Hand over to the stage what this process is told; it has a session of its own, so Ctrl-C does not reach it."""

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(stage, signal.SIGSTOP if number == signal.SIGTSTP else number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)


def _status(connection: socket.socket) -> int:
    """Wait for the end of the stage."""
    try:
        while True:
            kind, status = _answer(connection)
            if kind == _warm.ENDED:
                return status
    except OSError:
        raise SystemExit(
            "the warm parent ended, and the stage with it; run it again, it goes on from its checkpoint"
        ) from None


def _end_as(status: int) -> None:
    """End with the exit code of the stage, or by the signal that ended it."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
