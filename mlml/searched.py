"""What a search found, put to use: the values of its best.yaml in the entry of the experiment that it varied."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mlml.declaration import Experiment, with_values

BEST = "best.yaml"


def with_found(experiment: Experiment, searches: Path) -> Experiment:
    """Return an experiment as it runs: a searched one with what its search found, any other as it is.

    Args:
        experiment: as it is declared.
        searches: folder with what searches left, by their names.

    Raises:
        FileNotFoundError: the search has found nothing yet.
        DeclarationError: what it found does not fit.
    """
    if experiment.searched is None:
        return experiment
    return with_values(experiment, found_values(searches / experiment.searched.from_search / BEST))


def found_values(path: Path) -> dict[str, Any]:
    """Return the values of a best.yaml, by dotted path."""
    return dict(_leaves(YAML(typ="safe").load(path)["overrides"]))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Values by dotted path; no value that a search tries is a mapping."""
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found
