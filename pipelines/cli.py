"""The command line: `mlml check`, `mlml sync`, `mlml up`, `mlml down`."""

import argparse
import sys
from collections.abc import Sequence

from stages import _lineage, _servers
from stages.check import read_or_exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 means that the declaration has faults, 1 that the command failed."""
    parser = argparse.ArgumentParser(prog="mlml", description="Compare machine-learning methods under one protocol.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=(command.__doc__ or "").split("\n")[0])
    COMMANDS[parser.parse_args(arguments).command]()


def check() -> None:
    """Check params.yaml and list every fault in it."""
    declared = read_or_exit()
    print(f"params.yaml is valid: {len(declared.data)} data sets, {len(declared.experiments)} experiments")


def sync() -> None:
    """Send to MLflow what a run could not send while the server was away."""
    from mlml.tracking.store import tracking_uri
    from mlml.tracking.sync import sync_all

    root = _lineage.store_root()
    _servers.apply_settings(root)
    uri = tracking_uri(root)
    results = sync_all(root, uri)
    for result in results:
        sent = f"{result.points} points, {result.artifacts} artifacts"
        print(f"{result.folder.relative_to(root)}: {result.fault or sent}")
    failed = sum(result.fault is not None for result in results)
    print(f"{len(results) - failed} runs sent to {uri}, {failed} not sent")
    if failed:
        sys.exit(1)


def up() -> None:
    """Start the Prefect and MLflow servers on this machine, and print where they are."""
    from pipelines import servers

    servers.up(_lineage.store_root())


def down() -> None:
    """Stop the servers that this project started."""
    from pipelines import servers

    servers.down(_lineage.store_root())


COMMANDS = {"check": check, "sync": sync, "up": up, "down": down}

if __name__ == "__main__":
    main()
