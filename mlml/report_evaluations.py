"""The report's section of evaluations: generators by measures, beside the floor."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlml import alarms

if TYPE_CHECKING:
    from mlml.report import Result

LESS_IS_BETTER = frozenset({"fid", "fid_infinity", "kid", "fid_inception", "mse", "class_distance"})
"""Of every other measure more is better, but for those of CHOSEN."""

FLOORS = {"text_agreement": "real images"}
"""What the floor of an evaluation is of, where it is not the train split."""

CHOSEN = frozenset({"guidance_scale"})
"""What was chosen to measure with: no value is better."""

_FULL = re.compile(r"test/\w+?_[\w-]+-[0-9a-f]{6}_n\d+")
_TEST, _FLOOR = "test/", "floor/"


def tables(results: Sequence["Result"], number: Callable[[str, "Result"], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a table for every data set, kind of evaluation, extractor and number of images: those alone compare.

    Args:
        results: of evaluations.
        number: makes of a metric and a result what the template shows.
    """
    return [
        {
            "dataset": group.dataset,
            "method": group.method.replace("_", " "),
            "extractor": group.extractor,
            "count": group.num_images,
            "floor_of": group.floor_of,
        }
        | _table(group.results, number)
        for group in groups(results)
    ]


class Group(NamedTuple):
    """Evaluations whose numbers compare: of one data set, method, extractor and number of images of each kind."""

    dataset: str
    method: str
    extractor: str
    num_images: str
    results: list["Result"]

    @property
    def floor_of(self) -> str:
        """What the floor is of."""
        return FLOORS.get(self.method, "train split")


def groups(results: Sequence["Result"]) -> list[Group]:
    """Sort evaluations into those that compare, in their order."""
    found: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        found.setdefault((result.dataset, result.method, *_seen_by(result)), []).append(result)
    return [Group(dataset, method, label, count, members) for (dataset, method, label, count), members in found.items()]


def measures(results: Sequence["Result"]) -> list[str]:
    """Names of what was measured on test, without the full names that tell extractor and count."""
    plain = [
        name for result in results for name in result.metrics if name.startswith(_TEST) and not _FULL.fullmatch(name)
    ]
    return [name.removeprefix(_TEST) for name in dict.fromkeys(plain)]


def _seen_by(result: "Result") -> tuple[str, str]:
    """Extractor with its hash, and number of images of each kind, from the full name of a metric."""
    extractor = str(result.config["extractor"])
    full = re.compile(rf"test/\w+?_({re.escape(extractor)}-[0-9a-f]{{6}})_n(\d+)")
    for name in result.metrics:
        if match := full.fullmatch(name):
            return match[1], match[2]
    return extractor, ""


def _table(results: Sequence["Result"], number: Callable[[str, "Result"], Mapping[str, Any]]) -> dict[str, Any]:
    columns = measures(results)
    best = {column: _best(results, column) for column in columns}
    rows = [
        {
            "result": result,
            "cells": [
                {**number(_TEST + column, result), "best": result.name in best[column]}
                if _TEST + column in result.metrics
                else None
                for column in columns
            ],
        }
        for result in results
    ]
    first = results[0]  # train against test: no generator and no seed changes it, so it has no interval
    floor = [
        {**number(_FLOOR + column, first), "interval": ""} if _FLOOR + column in first.metrics else None
        for column in columns
    ]
    headings = [
        {
            "name": column.replace("_", " "),
            "unit": cell["unit"],
            "better": "" if column in CHOSEN else "less" if column in LESS_IS_BETTER else "more",
        }
        for column, cell in zip(columns, (_first(rows, place) for place in range(len(columns))), strict=True)
    ]
    ills = [(result.name, verdict.sentence) for result in results for verdict in alarms.of_samples(_means(result))]
    said = [f"{name}: {sentence}" for name, sentence in ills]
    return {"columns": headings, "rows": rows, "floor": floor if any(floor) else [], "said": said}


def _means(result: "Result") -> dict[str, float]:
    """Means over the seeds."""
    means = {name: summary["mean"] for name, summary in result.metrics.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _first(rows: Sequence[Mapping[str, Any]], place: int) -> Mapping[str, Any]:
    """The first cell of a column that is there; each column is there for one of the rows."""
    found: Mapping[str, Any] = next(row["cells"][place] for row in rows if row["cells"][place] is not None)
    return found


def _best(results: Sequence["Result"], column: str) -> list[str]:
    """Names of the results with the best mean of a column; none where there is nothing to be better than."""
    means = {
        result.name: mean
        for result in results
        if (mean := result.metrics.get(_TEST + column, {}).get("mean")) is not None
    }
    if len(means) < 2 or column in CHOSEN:
        return []
    chosen = (min if column in LESS_IS_BETTER else max)(means.values())
    return [name for name, mean in means.items() if mean == chosen]
