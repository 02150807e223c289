"""Check params.yaml and list every fault in it."""

import argparse

from stages.check import read_or_exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(options: argparse.Namespace) -> None:
    """Print what is declared; exit code 2 with the faults."""
    declared = read_or_exit()
    print(f"params.yaml is valid: {len(declared.data)} data sets, {len(declared.experiments)} experiments")
