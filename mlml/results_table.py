"""Leaderboard, evaluations, compared samplers as Markdown tables, with what each model cost: for other pages.

The report's bytes are in dvc.lock, so no time and no size of memory may stand in it; they stand here.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from mlml import report_evaluations, results_regret
from mlml.config import is_share
from mlml.report import SCORE, Result, leaderboard
from mlml.statistics import Difference, by_seed, difference

_MEBIBYTE = 2**20
_DASH = "–"
_NOT_SHOWN = ("inception_score", "density", "class_distance")
"""Measures that the report has, and for which a page is too narrow."""


class Cost(NamedTuple):
    """What the training of one seed took.

    Attributes:
        seconds: of wall-clock time, evaluations and checkpoints included.
        peak_bytes: as `mlml.peak_memory` measures it.
    """

    seconds: float
    peak_bytes: float


def markdown(
    results: Sequence[Result],
    costs: Mapping[str, Mapping[int, Cost]],
    sampling: Mapping[str, Mapping[int, float]] = MappingProxyType({}),
) -> str:
    """Return tables: of each data set, encoders by probes; of each kind of evaluation, generators; of samplers, one.

    Wall seconds and peak memory stand beside the accuracies, seconds of training and sampling beside the measures, and
    the floor below them: what as many images of the train split have.

    A cell holds the mean over seeds of the accuracy on test in percent with its 95 % interval, and in brackets the gain
    over the random encoder of the same network with the interval of that. Below each table stands which encoders are
    not above the random one by more than that interval.

    Args:
        results: of all experiments.
        costs: by the name of the model and seed; one that trains nothing has none.
        sampling: seconds that samples took, by the name of the evaluation and seed.

    Raises:
        ValueError: as `mlml.report.leaderboard`; or there is no probe, no evaluation and no comparison.
    """
    evaluations = [result for result in results if result.family == "evaluation"]
    tables = [_evaluated(group, costs, sampling) for group in report_evaluations.groups(evaluations)]
    if regrets := [result for result in results if result.method == results_regret.METHOD]:
        tables.append(results_regret.markdown(regrets))
    if any(result.family == "probe" for result in results) or not tables:
        frame = leaderboard(results)
        boards = [_table(str(name), board, results, costs) for name, board in frame.groupby("dataset")]
        tables = [*boards, *tables]
    return "\n\n".join(tables)


def _evaluated(
    group: report_evaluations.Group,
    costs: Mapping[str, Mapping[int, Cost]],
    sampling: Mapping[str, Mapping[int, float]],
) -> str:
    """The table of generators that compare, and the sentence below it."""
    columns = [column for column in report_evaluations.measures(group.results) if column not in _NOT_SHOWN]
    heading = [_measure(column) for column in columns]
    lines = [
        f"| {group.dataset} | {' | '.join(heading)} | train s | sample s | MiB |",
        "|---|" + "---:|" * (len(columns) + 3),
    ]
    for result in group.results:
        generator, summaries = result.config["generator"], result.metrics
        cells = [_number(column, summaries.get(f"test/{column}")) for column in columns]
        seconds, most = _cost(costs.get(generator, {}))
        took = sampling.get(result.name, {})
        sampled = f"{mean(took.values()):,.0f}" if took else _DASH
        lines.append(f"| `{generator}` | {' | '.join([*cells, seconds, sampled, most])} |")
    floor = group.results[0].metrics  # no generator and no seed changes it, so it has no interval
    cells = [_number(column, floor.get(f"floor/{column}"), interval=False) for column in columns]
    lines.append(f"| {group.floor_of} | {' | '.join([*cells, _DASH, _DASH, _DASH])} |")
    seeds = " or ".join(str(count) for count in sorted({len(result.seeds) for result in group.results}))
    what = group.method.replace("_", " ").capitalize()
    said = (
        f"{what} on test by `{group.extractor}`, {group.num_images} images of each kind; "
        f"mean and 95 % interval, seeds: {seeds}; shares in percent"
    )
    return "\n".join([*lines, "", f"{said}."])


def _measure(column: str) -> str:
    arrow = " ↓" if column in report_evaluations.LESS_IS_BETTER else " ↑"
    return column.replace("_", " ") + ("" if column in report_evaluations.CHOSEN else arrow)


def _number(column: str, summary: Mapping[str, float | None] | None, interval: bool = True) -> str:
    """A measure with its interval; a share in percent."""
    if summary is None or (average := summary["mean"]) is None:
        return _DASH
    share = is_share(column)
    half = summary["interval95"] if interval else None

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if share else f"{value:.3g}"

    return text(average) + ("" if half is None else f" ± {text(half)}")


def _table(
    dataset: str, frame: pd.DataFrame, results: Sequence[Result], costs: Mapping[str, Mapping[int, Cost]]
) -> str:
    """The table of one data set, and the sentences below it."""
    by_stage = {result.stage: result for result in results}
    networks = {result.name: repr(result.config.get("encoder")) for result in results if result.family != "probe"}
    rows = frame.to_dict("records")
    floors = {(row["probe"], networks[row["encoder"]]): row for row in rows if row["method"] == "random"}
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    lines = [f"| {dataset} | {' | '.join(probes)} | seconds | MiB |", "|---|" + "---:|" * (len(probes) + 2)]
    below: list[str] = []
    for encoder in dict.fromkeys(row["encoder"] for row in sorted(rows, key=lambda row: row["baseline"])):
        cells = []
        for probe in probes:
            row = next((row for row in rows if (row["encoder"], row["probe"]) == (encoder, probe)), None)
            floor = floors.get((probe, networks[encoder]))
            gain = None
            if row is not None and floor is not None and row is not floor:
                own, random = (by_seed(by_stage[each["stage"]].metrics[SCORE]) for each in (row, floor))
                gain = difference(own, random)
                if gain.mean <= (gain.interval95 or 0.0):
                    below.append(f"`{encoder}` ({probe})")
            cells.append(_cell(row["mean"], row["interval95"], gain) if row is not None else _DASH)
        lines.append(f"| `{encoder}` | {' | '.join([*cells, *_cost(costs.get(encoder, {}))])} |")
    seeds = " or ".join(str(count) for count in sorted({row["seeds"] for row in rows}))
    said = f"Test accuracy in percent, mean and 95 % interval, seeds: {seeds}"
    if floors:
        said += (
            "; in brackets the gain over the random encoder of the same network. "
            f"Not above it by more than its interval: {', '.join(below) or 'none'}"
        )
    return "\n".join([*lines, "", f"{said}."])


def _cell(average: float, interval95: float | None, gain: Difference | None) -> str:
    """An accuracy and a gain, in percent and points."""
    text = f"{100 * average:.1f}" + ("" if pd.isna(interval95) else f" ± {100 * interval95:.1f}")
    if gain is None:
        return text
    more = "" if gain.interval95 is None else f" ± {100 * gain.interval95:.1f}"
    return f"{text} ({100 * gain.mean:+.1f}{more})".replace("(-", "(\N{MINUS SIGN}")


def _cost(of_seeds: Mapping[int, Cost]) -> tuple[str, str]:
    """Mean seconds of a seed, and the most memory of any, in MiB."""
    if not of_seeds:
        return _DASH, _DASH
    seconds = mean(cost.seconds for cost in of_seeds.values())
    most = max(cost.peak_bytes for cost in of_seeds.values())
    return f"{seconds:,.0f}", f"{most / _MEBIBYTE:,.0f}"
