"""Remove run folders, checkpoints, temporary workspaces and MLflow runs that nothing refers to, after listing them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stages import _lineage, _servers
from stages.check import read_or_exit

if TYPE_CHECKING:
    from pipelines.garbage import Found, Item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("-y", "--yes", action="store_true", help="remove what is listed, without asking")
    parser.add_argument("--unsent", action="store_true", help="also runs of which MLflow does not have everything")
    parser.add_argument("--shared", action="store_true", help="also runs in an MLflow store that others may use")


def run(options: argparse.Namespace) -> None:
    """Exit code 0; 1 when something could not be removed; 2 when nobody can be asked, or the declaration has faults."""
    read_or_exit()
    root = _lineage.store_root()
    _servers.apply_settings(root)
    found = _find(root, options.unsent, options.shared)
    for line in listing(found):
        print(line)
    if not found.items:
        return
    if not options.yes:
        if not sys.stdin.isatty():
            print("mlml gc: nobody to ask; 'mlml gc --yes' removes what is listed", file=sys.stderr)
            raise SystemExit(2)
        if input("remove all of it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    faults = _remove(root, found.items)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(found.items) - len(faults)} removed" + (f", {len(faults)} not" if faults else ""))
    if faults:
        raise SystemExit(1)


def listing(found: "Found") -> list[str]:
    """Return a line for every item, by kind with counts and sizes, and one for everything that stays in doubt."""
    lines = []
    for kind in dict.fromkeys(item.kind for item in found.items):
        items = [item for item in found.items if item.kind == kind]
        lines.append(f"{_count(len(items), kind)}, {_size(sum(item.size for item in items))}:")
        lines += [f"  {_size(item.size):>9}  {item.about}" for item in items]
    if not found.items:
        lines.append("nothing to remove")
    lines += [f"stays: {sentence}" for sentence in found.kept]
    return lines


def _find(root: Path, unsent: bool, shared: bool) -> "Found":
    from dvc.exceptions import DvcException

    from mlml.tracking.run import TrackingError
    from pipelines import garbage, mlflow_runs
    from pipelines.references import references

    try:
        referred = references(root)
    except DvcException as error:
        print(f"mlml gc: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    parts = [garbage.run_folders(root, referred, unsent), garbage.temporary_workspaces(root), garbage.remains(root)]
    gone = {item.path for item in parts[0].items}
    stay = {path.name for path in (root / ".mlml" / "runs").glob("*/*") if path not in gone}
    try:
        parts.append(mlflow_runs.unreferred_runs(root, referred, stay, shared))
    except TrackingError as error:
        parts.append(garbage.Found(kept=[f"runs at MLflow: {error}"]))
    return garbage.Found(
        [item for part in parts for item in part.items], [kept for part in parts for kept in part.kept]
    )


def _remove(root: Path, items: "list[Item]") -> list[str]:
    """Remove items; return a sentence for each that could not be."""
    from pipelines import garbage, mlflow_runs

    faults = []
    for item in items:
        if item.kind == "MLflow run":
            continue
        try:
            if not garbage.remove(root, item):
                faults.append(f"{item.about}: a process has begun to work there; it stays")
        except OSError as error:
            faults.append(f"{item.about}: {error}")
    runs = [item for item in items if item.kind == "MLflow run"]
    if runs:
        try:
            mlflow_runs.remove_runs(root, runs)
        except OSError as error:
            faults.append(str(error))
    return faults


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}{'s' if number != 1 and not kind.endswith('s') else ''}"


def _size(number: float) -> str:
    power = 0
    while number >= 1000 and power < 4:
        number, power = number / 1000, power + 1
    return f"{number:.{0 if power == 0 or number >= 10 else 1}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
