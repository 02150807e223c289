"""Start the Prefect and MLflow servers and Optuna's dashboard on this machine, and print where they are."""

import argparse

from pipelines import servers
from stages import _lineage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(options: argparse.Namespace) -> None:
    """Start them, unless they run."""
    servers.up(_lineage.store_root())
