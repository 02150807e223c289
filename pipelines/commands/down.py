"""Stop the servers that this project started."""

import argparse

from pipelines import servers
from stages import _lineage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(options: argparse.Namespace) -> None:
    """Stop them by their process ids."""
    servers.down(_lineage.store_root())
