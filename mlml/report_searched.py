"""The report's section of what searches found: each searched experiment beside the one that its search varied.

Both are measured by one protocol, with seeds that the search never saw: it chose what is best for its own seeds, and
would look better with these than it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlml.config import ComparisonConfig
from mlml.statistics import by_seed, summarise

if TYPE_CHECKING:
    from mlml.report import Result

_JUDGES = {"probe": "encoder", "evaluation": "generator"}
"""Families of what may judge the trials of a search, and the key by which each names what it judges."""

_VALIDATION, _TEST = "validation/", "test/"
_DASH = "\N{EN DASH}"

Compare = Callable[[ComparisonConfig, Sequence["Result"]], Mapping[str, Any]]
"""Makes of a comparison and the results that it names what the template shows."""


def sections(results: Sequence["Result"], compare: Compare) -> list[dict[str, Any]]:
    """Return what the template shows of every searched experiment.

    Args:
        results: of all experiments, the searches among them.
        compare: sets results side by side.
    """
    by_name = {result.name: result for result in results}
    return [_section(result, by_name, compare) for result in results if result.searched is not None]


def _section(result: "Result", by_name: Mapping[str, "Result"], compare: Compare) -> dict[str, Any]:
    assert result.searched is not None
    default, search = by_name[result.searched.experiment], by_name[result.searched.from_search]
    pair = _pair(result, default, search, by_name)
    compared: list[dict[str, Any]] = []
    missing = ""
    if pair is None:
        judge = by_name[search.config["objective"]]
        missing = (
            f"The search was judged by {judge.name}. To compare, declare in {judge.family} an entry with the same "
            f"numbers whose {_JUDGES[judge.family]} is {result.name}."
        )
    else:
        compared = _compared(pair, search, compare)
        if not compared:
            seeds = " and ".join(each.name for each in pair)
            missing = f"{seeds} have no seed and no metric in common with which to compare them."
    return {
        "result": result,
        "default": default.name,
        "search": search.name,
        "values": _values(result, default, search),
        "seeds": _seeds(search.seeds, compared[0]["seeds"] if compared else result.seeds),
        "compared": compared,
        "missing": missing,
    }


def _values(result: "Result", default: "Result", search: "Result") -> list[dict[str, str]]:
    """What the search varied: the default's value and the one that was found, of paths that the found entry has."""
    rows = []
    for path in search.config["space"]:
        found, before = (_at(each.config, path) for each in (result, default))
        if found is not _MISSING:
            rows.append({"path": path, "default": _text(before), "found": _text(found)})
    return rows


_MISSING = object()


def _at(node: Any, path: str) -> Any:
    """The value at a dotted path; _MISSING where there is none."""
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _MISSING
        node = node[part]
    return node


def _text(value: Any) -> str:
    if value is _MISSING:
        return _DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pair(
    result: "Result", default: "Result", search: "Result", by_name: Mapping[str, "Result"]
) -> tuple["Result", "Result"] | None:
    """The two that compare: the experiments, or what judged the search and its like for the searched one, if any."""
    judge = by_name[search.config["objective"]]
    if judge is default:
        return default, result
    wanted = {**judge.config, _JUDGES[judge.family]: result.name}
    for other in by_name.values():
        if other.family == judge.family and {**other.config, "seeds": wanted["seeds"]} == wanted:
            return judge, other
    return None


def _compared(pair: tuple["Result", "Result"], search: "Result", compare: Compare) -> list[dict[str, Any]]:
    """Their comparisons by what the search looked at, its metric first, as far as they have it in common."""
    objectives = {search.config["metric"]: search.config["direction"], **search.config.get("further_objectives", {})}
    found = [_compared_by(metric, direction, pair, search, compare) for metric, direction in objectives.items()]
    return [comparison for comparison in found if comparison is not None]


def _compared_by(
    metric: str, direction: str, pair: tuple["Result", "Result"], search: "Result", compare: Compare
) -> dict[str, Any] | None:
    """Their comparison by an objective, on test if it is measured there; None if nothing is in common."""
    names = (f"{_TEST}{metric.removeprefix(_VALIDATION)}", metric)
    measured = next((name for name in names if all(name in each.metrics for each in pair)), None)
    if measured is None:
        return None
    first, second = (by_seed(each.metrics[measured]) for each in pair)
    seeds = sorted((first.keys() & second.keys()) - set(search.seeds))
    if not seeds:
        return None
    config = ComparisonConfig(
        title=f"{pair[0].name} against {pair[1].name}",
        metric=measured,
        direction=direction,
        of=(pair[0].name, pair[1].name),
    )
    same = [
        replace(each, seeds=seeds, metrics={measured: summarise({seed: values[seed] for seed in seeds})})
        for each, values in zip(pair, (first, second), strict=True)
    ]
    return {"seeds": seeds, "on_test": measured.startswith(_TEST), **compare(config, same)}


def _seeds(searched: Sequence[int], measured: Sequence[int]) -> str:
    """The sentence of what the search saw, and what it did not."""
    return f"The search saw {_listed(searched)} alone; what stands here is of {_listed(measured)}, which it never saw."


def _listed(seeds: Sequence[int]) -> str:
    *most, last = map(str, seeds)
    return f"the seeds {', '.join(most)} and {last}" if most else f"the seed {last}"
