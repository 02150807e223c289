"""Runs samplers side by side: one space, one budget, several seeds."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlml import catalogue
from mlml.search import _study
from mlml.search._regret import Searched
from mlml.search._storage import VARIABLE
from mlml.search._study import Objective, Record, best, run_study

logger = logging.getLogger(__name__)


def run_all(
    searches: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    seeds: Sequence[int],
    objective: Callable[[int], Objective],
    folder: Path,
) -> Searched:
    """Run every search with every seed, going on with what `folder` holds of them.

    Args:
        searches: by label, the sampler and its numbers, as `sampler_entries` gives them.
        shared: what all have in common, as `shared_by` gives it.
        seeds: of the searches.
        objective: takes a seed, gives what runs a trial of that seed's searches.
        folder: of the journals.

    Raises:
        SearchError: no trial of a search was completed.
    """
    found: dict[str, dict[int, list[Record]]] = {}
    for label, entry in searches.items():
        method_class = catalogue.method_class(catalogue.SECTIONS["search"], entry["method"])
        own = {key: value for key, value in entry.items() if key != "method"}
        config = method_class.Config.model_validate({**own, **shared})
        found[label] = {}
        for seed in seeds:
            place = folder / label / f"seed_{seed}"
            with _apart():
                records = run_study(config, method_class(config).sampler, place, objective(seed), seed)
            found[label][seed] = records
            top = best(records, config.direction)
            logger.info(
                "%s, seed %d: the best of %d trials is %d: %s", label, seed, len(records), top.number, top.value
            )
    return found


@contextmanager
def _apart() -> Iterator[None]:
    """Keep a search in its own folder, whatever database the environment names, and from telling of each trial.

    A comparison has thousands, and nobody joins its searches.
    """
    database, level = os.environ.pop(VARIABLE, None), _study.logger.level
    _study.logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _study.logger.setLevel(level)
        if database is not None:
            os.environ[VARIABLE] = database
