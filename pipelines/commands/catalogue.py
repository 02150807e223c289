"""Print all that can be declared, with types, ranges and defaults, as docs/catalogue.md has it."""

import argparse

from mlml.catalogue_page import page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(options: argparse.Namespace) -> None:
    """Print the page; 'mlml catalogue > docs/catalogue.md' renews it."""
    print(page(), end="")
