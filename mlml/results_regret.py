"""Comparisons of samplers as one Markdown table, for pages that are not the report."""

from collections.abc import Sequence

from mlml.report import Result
from mlml.search._regret import against, baseline, mean
from mlml.statistics import by_seed, summarise

METHOD = "search_regret"
"""Of the study and of the illustration that compare samplers."""

_ENDING = "/regret"
_DASH = "–"


def markdown(results: Sequence[Result]) -> str:
    """Return a table of searches by comparisons, and the sentences below it.

    A cell holds the mean regret after the last trial over seeds with its 95 % interval, and in brackets how many of it
    make the mean of random search.

    Args:
        results: of comparisons of samplers; one or more.
    """
    ends = {
        result.name: {
            name.removesuffix(_ENDING): by_seed(summary)
            for name, summary in result.metrics.items()
            if name.endswith(_ENDING)
        }
        for result in results
    }
    labels = list(dict.fromkeys(label for of in ends.values() for label in of))
    randoms = {result.name: baseline(result.config["searches"]) for result in results}
    lines = [f"| search | {' | '.join(ends)} |", "|---|" + "---:|" * len(ends)]
    for label in labels:
        cells = [_cell(of, label, randoms[name]) for name, of in ends.items()]
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    said = ["Mean regret after the last trial and its 95 % interval; in brackets, how many times lower than random's."]
    said += [_below(result, ends[result.name], randoms[result.name]) for result in results]
    return "\n".join([*lines, "", " ".join(said)])


def _cell(ends: dict[str, dict[int, float]], label: str, random: str | None) -> str:
    if label not in ends:
        return _DASH
    summary = summarise(ends[label])
    text = f"{summary['mean']:.3g}" + ("" if (half := summary["interval95"]) is None else f" ± {half:.2g}")
    if random is None or label == random:
        return text
    own = mean(ends[label])
    return f"{text} ({_times(mean(ends[random]) / own)})" if own > 0 else text


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _below(result: Result, ends: dict[str, dict[int, float]], random: str | None) -> str:
    """What one comparison is, and which of its searches are not told from the best and from random."""
    num_seeds = len(next(iter(ends.values())))
    said = f"`{result.name}`: {result.config['trials']} trials, {num_seeds} seed{'s' if num_seeds > 1 else ''}"
    if num_seeds == 1:
        return f"{said}."
    best = min(ends, key=lambda label: mean(ends[label]))
    said += f"; not told from the best, `{best}`: {_listed(against(ends, best).alike)}"
    if random is not None and random != best:
        than = against(ends, random)
        said += f"; not told from `{random}`: {_listed(than.alike)}"
        said += f"; above it: {_listed(than.higher)}" if than.higher else ""
    return f"{said}."


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels) or "none"
