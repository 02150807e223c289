"""Take part in a search that is under way, from here: 'mlml search worker NAME'."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("what", choices=["worker"], help="run trials until none of the search is left")
    parser.add_argument("name", help="of the search; its stage must be at work, here or on the same database")


def run(options: argparse.Namespace) -> None:
    """Exit code 2 when the declaration has faults or no such search is under way."""
    from mlml.config import DeclarationError
    from mlml.declaration import read
    from mlml.search._storage import StorageError
    from mlml.search._study import SearchError
    from stages._search_worker import alone

    try:
        names = [search.name for search in read().family("search")]
        if options.name not in names:
            raise SearchError(f"no search {options.name!r} is declared (known: {', '.join(names) or 'none'})")
        count = alone(options.name)
    except (DeclarationError, SearchError, StorageError) as error:
        print(f"mlml search: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"ran {count} trials of {options.name!r}, of which none is left")
