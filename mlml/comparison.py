"""Experiments side by side: who is best, by how much, and whether more than chance says so.

Every sentence is made from the numbers. The interval of a difference is for one pair; it is not widened for the number
of experiments that are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlml.config import ComparisonConfig, is_share, suggest
from mlml.figures import LIGHT, Theme, line_look, style
from mlml.statistics import Difference, by_seed, difference

FAR = 3.0
"""A difference of this many half-widths of its 95 % interval is far outside of what seeds explain."""

NEARLY = 0.9
"""Share of the best's accuracy whose reaching tells how quick an experiment is."""

LOG_RANGE = 20.0
"""Losses whose largest is this many times the smallest are drawn on a log scale."""

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Member:
    """One of the experiments that are compared.

    Attributes:
        summary: of the compared metric, as `mlml.statistics.summarise` returns it.
        curves: columns step, seed and metrics; empty where nothing was trained.
    """

    name: str
    dataset: str
    summary: Mapping[str, float | None]
    curves: pd.DataFrame

    @property
    def by_seed(self) -> dict[int, float]:
        """The metric by seed."""
        return by_seed(self.summary)

    @property
    def mean(self) -> float:
        """The metric's mean over seeds."""
        found = self.summary["mean"]
        assert found is not None
        return found


@dataclass(frozen=True)
class Standing:
    """Where one experiment stands.

    Attributes:
        gap: its mean less the best's; None of the best itself.
        verdict: what the gap says, in words.
        quick: mean over seeds of the first step at which the score was `NEARLY` the best's; None where a seed never
            came there, or where the metric is no share.
    """

    member: Member
    gap: Difference | None
    verdict: str
    quick: float | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; the best comes first.

    Attributes:
        target: the score whose reaching `Standing.quick` tells; None where the metric is no share, or has no curve.
    """

    standings: tuple[Standing, ...]
    target: float | None
    sentences: tuple[str, ...]


def summary_of(
    config: ComparisonConfig, name: str, metrics: Mapping[str, Mapping[str, float | None]]
) -> Mapping[str, float | None]:
    """Return an experiment's summary of the compared metric.

    Raises:
        ValueError: the experiment has no such metric.
    """
    if config.metric not in metrics:
        raise ValueError(
            f"report.comparisons: {name!r} has no metric {config.metric!r}{suggest(config.metric, metrics)}"
        )
    return metrics[config.metric]


def compare(config: ComparisonConfig, members: Sequence[Member]) -> Comparison:
    """Order experiments by their mean, and tell each one's distance from the best."""
    sign = -1 if config.maximize else 1
    best, *others = sorted(members, key=lambda member: sign * member.mean)  # stable: as declared where they are equal
    target = _target(config, best)

    def standing(member: Member) -> Standing:
        gap = None
        if member is not best:
            gap = difference(member.by_seed, best.by_seed, pair=member.dataset == best.dataset)
        return Standing(member, gap, verdict(gap), _quick(config, member, target))

    standings = tuple(standing(member) for member in (best, *others))
    return Comparison(standings, target, tuple(_sentences(config, standings, target)))


def verdict(gap: Difference | None) -> str:
    """Say what a difference from the best means; "best" where there is none."""
    if gap is None:
        return "best"
    if gap.interval95 is None:
        return "a single seed tells nothing of chance"
    if abs(gap.mean) <= gap.interval95:
        return "cannot be told apart"
    if abs(gap.mean) >= FAR * gap.interval95:
        return "far outside of what seeds explain"
    return "more than seeds explain"


def _target(config: ComparisonConfig, best: Member) -> float | None:
    """`NEARLY` the highest mean that the best had on validation."""
    column = _validation(config)
    if not (is_share(config.metric) and config.maximize) or column not in best.curves:
        return None
    return NEARLY * float(best.curves.groupby("step")[column].mean().max())


def _validation(config: ComparisonConfig) -> str:
    return f"validation/{config.metric.partition('/')[2]}"


def _quick(config: ComparisonConfig, member: Member, target: float | None) -> float | None:
    column = _validation(config)
    if target is None or column not in member.curves:
        return None
    reached = member.curves[member.curves[column] >= target].groupby("seed")["step"].min()
    return float(reached.mean()) if len(reached) == member.curves["seed"].nunique() else None


def score_text(metric: str, value: float, interval: float | None = None) -> str:
    """A score with its interval: shares in percent with one decimal, others to four digits."""
    if is_share(metric):
        return f"{100 * value:.1f}" + (f" ± {100 * interval:.1f}" if interval is not None else "") + " %"
    return f"{value:.4g}" + (f" ± {interval:.2g}" if interval is not None else "")


def gap_text(metric: str, gap: Difference) -> str:
    """A difference with its sign, in points where the metric is a share."""
    text = f"{100 * gap.mean:+.1f}" if is_share(metric) else f"{gap.mean:+.3g}"
    return text.replace("-", _MINUS) if float(text) else text[1:]  # nothing has no sign


def range_text(metric: str, gap: Difference) -> str:
    """The 95 % interval of a difference, "[low, high]"; "" where there is none."""
    if gap.interval95 is None:
        return ""
    ends = (gap.mean - gap.interval95, gap.mean + gap.interval95)
    texts = [f"{100 * end:.1f}" if is_share(metric) else f"{end:.3g}" for end in ends]
    return f"[{', '.join(texts)}]".replace("-", _MINUS)


def _sentences(config: ComparisonConfig, standings: Sequence[Standing], target: float | None) -> list[str]:
    """What was seen, from the numbers."""
    metric, (best, *others) = config.metric, standings
    count = len(best.member.by_seed)
    seeds = "1 seed" if count == 1 else f"mean of {count} seeds"
    sentences = [f"{best.member.name} is best: {metric} {_score(metric, best.member)} ({seeds})."]
    alike = [s for s in others if s.verdict == "cannot be told apart"]
    if alike:
        names = ", ".join(f"{s.member.name} ({_score(metric, s.member)})" for s in alike)
        sentences.append(f"Not to be told apart from it with {count} seeds: {names}.")
    unit = " points" if is_share(metric) else ""
    for standing in others:
        if standing not in alike and standing.gap is not None:
            way = "less" if standing.gap.mean < 0 else "more"
            size = gap_text(metric, standing.gap).lstrip(f"+{_MINUS}")
            interval = range_text(metric, standing.gap)
            sentences.append(
                f"{standing.member.name} reached {_score(metric, standing.member)}: {size}{unit} {way}"
                f"{' ' + interval if interval else ''}, {standing.verdict}."
            )
    return [*sentences, *_speed(config, standings, target)]


def _score(metric: str, member: Member) -> str:
    return score_text(metric, member.mean, member.summary["interval95"])


def _speed(config: ComparisonConfig, standings: Sequence[Standing], target: float | None) -> list[str]:
    """Who came near the best's score first, and who never."""
    if target is None:
        return []
    ordered = sorted((s for s in standings if s.quick is not None), key=lambda s: s.quick or 0.0)
    never = [s.member.name for s in standings if s.quick is None and not s.member.curves.empty]
    parts = [f"{s.member.name} after {s.quick:.0f} steps" for s in (ordered[:1] + ordered[1:][-1:])]
    where = f"{score_text(config.metric, target)} on validation"
    told = [f"First at {where} was {', last '.join(parts)}."] if parts else []
    return told + ([f"Not every seed came to {where}: {', '.join(never)}."] if never else [])


def plot(config: ComparisonConfig, members: Sequence[Member], theme: Theme = LIGHT) -> Figure | None:
    """Draw the members' curves over each other: their mean over seeds, between the lowest and the highest seed.

    A panel for the validation loss, one for the compared metric, and one for the learning rates where these differ and
    at least one changes over the run.
    None when no member was trained.
    """
    trained = [member for member in members if not member.curves.empty]
    columns = [("validation/loss", "loss on validation"), (_validation(config), "")]
    columns = [(c, title) for c, title in dict(columns).items() if any(c in m.curves for m in trained)]
    panels = [(c, title or f"{c.rpartition('/')[2].replace('_', ' ')} on validation") for c, title in columns]
    if _rates_differ(trained):
        panels.append(("learning_rate", "learning rate"))
    if not panels:
        return None
    with style(theme):
        rows = -(-len(members) // 6)
        figure = Figure(figsize=(10.4, 3.3 + 0.22 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (column, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for place, member in enumerate(members):
                _curve(axes, member, column, theme, place)
            axes.set_title(title, loc="left")
            axes.set_xlabel("step")
            if column.endswith("loss"):
                _log_if_wide(axes)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 6), handlelength=2.4)
    return figure


def _rate_column(frame: pd.DataFrame) -> str | None:
    return next((name for name in frame.columns if name.endswith("/learning_rate")), None)


def _rates_differ(members: Sequence[Member]) -> bool:
    """Whether two members have different learning rates at one step, and some rate changes over the run."""
    courses = [
        member.curves.groupby("step")[column].mean().dropna().round(12)
        for member in members
        if (column := _rate_column(member.curves)) is not None
    ]
    if not courses:
        return False
    differ = pd.concat(courses).groupby(level=0).nunique().max() > 1  # one that stopped early has the others' beginning
    return bool(differ) and any(course.nunique() > 1 for course in courses)


def _curve(axes: Axes, member: Member, column: str, theme: Theme, place: int) -> None:
    """Draw one member's line and band; each has a colour, and beyond six members a dash of its own."""
    name = _rate_column(member.curves) if column == "learning_rate" else column
    colour, dash = line_look(theme, place)
    if name is None or name not in member.curves:
        axes.plot([], [], color=colour, linestyle=dash, label=member.name)
        return
    by_step = member.curves[["step", name]].dropna().groupby("step")[name]
    low, middle, high = by_step.min(), by_step.mean(), by_step.max()
    axes.plot(middle.index, middle, color=colour, linestyle=dash, linewidth=1.7, label=member.name)
    axes.fill_between(middle.index, low, high, color=colour, alpha=0.13, linewidth=0)


def _log_if_wide(axes: Axes) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    values = values[values > 0]
    if len(values) and values.max() > LOG_RANGE * values.min():
        axes.set_yscale("log")
