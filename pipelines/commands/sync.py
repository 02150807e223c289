"""Send to MLflow what a run could not send while the server was away."""

import argparse
import sys

from stages import _lineage, _servers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(options: argparse.Namespace) -> None:
    """Print a line for each run that is sent; exit code 1 if one is not."""
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
