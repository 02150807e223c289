"""Runs samplers side by side: one space, one budget, several seeds."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlml import catalogue
from mlml.search import _study
from mlml.search._regret import Searched
from mlml.search._storage import forget
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
        folder: of the journals; no other comparison has one of its name.

    Raises:
        SearchError: no trial of a search was completed.
    """
    return {
        label: {
            seed: _run(entry, shared, seed, objective(seed), folder / label / f"seed_{seed}", f"{folder.name}/{label}")
            for seed in seeds
        }
        for label, entry in searches.items()
    }


def _run(
    entry: Mapping[str, Any], shared: Mapping[str, Any], seed: int, objective: Objective, folder: Path, name: str
) -> list[Record]:
    method_class = catalogue.method_class(catalogue.SECTIONS["search"], entry["method"])
    own = {key: value for key, value in entry.items() if key != "method"}
    config = method_class.Config.model_validate({**own, **shared})
    with _quietly():
        records = run_study(config, method_class(config).sampler, folder, objective, seed, f"compared/{name}/{seed}")
    found = best(records, shared["direction"])
    logger.info("%s, seed %d: the best of %d trials is %d: %s", name, seed, len(records), found.number, found.value)
    return records


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a search from telling of each trial: a comparison has thousands."""
    level = _study.logger.level
    _study.logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _study.logger.setLevel(level)


def forget_all(searched: Searched, folder: Path) -> None:
    """Remove the searches from the database, if they lie in one, when what they found is kept elsewhere."""
    for label, by_seed in searched.items():
        for seed in by_seed:
            forget(f"compared/{folder.name}/{label}/{seed}")
