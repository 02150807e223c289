"""Print leaderboard, evaluations and compared samplers as Markdown tables, or keep them in a page up to date."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlml.declaration import Declaration

BEGIN, END = "<!-- mlml table: {title} -->", "<!-- end of table -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PAGE",
        help=f"replace what stands in PAGE between '{BEGIN.format(title='TITLE')}' and '{END}'; TITLE is report.title",
    )


def run(options: argparse.Namespace) -> None:
    """Exit code 0; 2 when the declaration has a fault, an experiment has no result yet, or PAGE no place for it."""
    from stages.check import read_or_exit

    declared = read_or_exit()
    try:
        table = make(declared)
        if options.into is None:
            print(table)
        else:
            options.into.write_text(replaced(options.into.read_text(), declared.report.title, table))
    except (OSError, ValueError) as error:
        print(f"mlml table: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def make(declared: "Declaration") -> str:
    """Return the table of what is declared.

    Raises:
        FileNotFoundError: an experiment has no result yet.
    """
    from mlml.results_table import markdown
    from pipelines import costs
    from stages import _lineage, report

    lineages = report.lineages_of(declared)
    try:
        results = report.collect(declared, lineages, dict.fromkeys(lineages))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename}: does not exist; run 'mlml repro' first") from None
    recorded = costs.read(_lineage.store_root(), lineages.values())
    took, sampling = costs.costs(recorded), costs.sampling(recorded)
    return markdown(
        results,
        {result.name: took[result.stage] for result in results},
        {result.name: sampling[result.stage] for result in results},
    )


def replaced(page: str, title: str, table: str) -> str:
    """Return a page with the table in its place.

    Raises:
        ValueError: the page has no such place.
    """
    begin = BEGIN.format(title=title)
    before, found, rest = page.partition(f"{begin}\n")
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"--into: the page must hold the lines '{begin}' and '{END}', one below the other")
    return f"{before}{begin}\n{table}\n{END}{after}"
