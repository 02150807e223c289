"""`dvc`, but for one thing: an override of params.yaml changes only the entry that it names.

`dvc exp run --set-param` merges overrides into YAML in which entries share mappings by aliases; there an override
changes every entry that shares, or, where another entry comes later, none at all, and says nothing.
"""

import sys
from pathlib import Path

from ruamel.yaml import YAML

from pipelines import overrides


def apply_overrides(path: str, given: list[str]) -> None:
    """Write overrides, each `path=value` with a value in YAML, into a file of parameters."""
    file = Path(path)
    parsed = dict(override.split("=", 1) for override in given)
    values = {name: YAML(typ="safe").load(value) for name, value in parsed.items()}
    file.write_text(overrides.apply(file.read_text(), values))


def main() -> None:
    """Run DVC's own command line."""
    import dvc.utils.hydra
    from dvc.cli import main as run

    dvc.utils.hydra.apply_overrides = apply_overrides
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
