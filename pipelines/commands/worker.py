"""Run stages for 'mlml repro --pool' of other machines, until Ctrl-C or SIGTERM."""

import argparse
import os
import socket
import sys

from stages import _lineage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("-p", "--pool", required=True, help="the Prefect work pool; made if it is absent")
    parser.add_argument("-n", "--name", help="of this worker in Prefect's pages; default: host and process")
    parser.add_argument("-s", "--slots", type=int, default=1, help="stages at once; default: 1")


def run(options: argparse.Namespace) -> None:
    """Exit code 2 when an option or the environment has a fault."""
    from pipelines.worker import WorkerError, serve

    name = options.name if options.name is not None else f"{socket.gethostname()}-{os.getpid()}"
    try:
        serve(_lineage.store_root(), options.pool, name, options.slots)
    except WorkerError as error:
        print(f"mlml worker: {error}", file=sys.stderr)
        raise SystemExit(2) from None
