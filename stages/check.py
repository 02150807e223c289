"""The gate in front of every other stage: a declaration with a fault stops DVC before any output is touched."""

import sys
from pathlib import Path

from mlml import declaration
from mlml.config import DeclarationError
from mlml.declaration import Declaration

CHECKED = Path("data/checked")
"""Its content never changes, so that no stage runs again only because the declaration was checked again."""

REPORTED = [Path("reports") / part for part in ("metrics", "curves", "diagnostics", "figures", "search", "findings")]
"""What the report depends on; made here, for DVC misses a folder into which no declared stage writes."""


def read_or_exit() -> Declaration:
    """Read params.yaml; with faults in it, list them all and leave with exit code 2."""
    try:
        return declaration.read()
    except DeclarationError as error:
        for fault in error.faults:
            print(f"params.yaml: {fault}", file=sys.stderr)
        raise SystemExit(2) from None


def main() -> None:
    """Check params.yaml; leave with exit code 2 when it has faults."""
    read_or_exit()
    for folder in (CHECKED.parent, *REPORTED):
        folder.mkdir(parents=True, exist_ok=True)
    CHECKED.write_text("params.yaml is valid\n")


if __name__ == "__main__":
    main()
