"""The report: one HTML page that stands alone, and the leaderboard as CSV. Every number comes from a `Result`.

Each number leads back to where it came from: its MLflow run, the commit, and the command that makes it again. Both
files are a function of the declaration, the outputs, the code and the commits: no id that a run drew, no time, no
address of a machine is in them, for dvc.lock holds their md5s, and whoever runs the same must get the same.
"""

import base64
import io
import json
import mimetypes
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from ruamel.yaml import YAML

from mlml import comparison, figures, report_diagnosis, report_evaluations, report_searched
from mlml.config import ComparisonConfig, SearchedEntry, is_share

SCORE = "test/accuracy"
"""The metric of a probe that the leaderboard compares."""

MAX_TRIALS = 200
"""Trials that the page shows of a search; the file holds them all."""

_COLUMNS = (
    *("dataset", "encoder", "family", "method", "network", "encoder_dataset", "baseline", "probe"),
    *("mean", "interval95", "gain", "seeds", "key", "commit", "stage", "command"),
)
_TRAINED = ("supervised", "pretext", "generative", "composed")
_FAMILIES = (*_TRAINED, "evaluation", "search", "study", "illustration", "probe")
_GENERATED = ("generative", "composed")
_OF_SEARCH = {  # its pictures, in the order to show them, and what each tells
    "history": "each trial, and the best so far",
    "importance": "how much each dimension matters",
    "front": "what one objective costs in another",
    "posterior": "what a Gaussian process knew of the metric, and where it would have looked next",
    "slices": "the metric against each dimension; the darker, the later",
    "contour": "the metric over pairs of dimensions; the darker, the better",
    "parallel": "each trial as a line; the darker, the better",
}
_PICTURES = ("samples", "reconstructions", "interpolation", *_OF_SEARCH)
_WIDE_PIXELS = 1200  # pictures of a search that are wider have a line of their own
_SEEING = ("pretext", "probe")  # families whose pictures are of images as an encoder sees them
_OWN_KEYS = {"method", "dataset", "seeds", "encoder"}


@dataclass(frozen=True)
class RunLink:
    """Where a result is recorded.

    Attributes:
        key: of the stage's lineage; the MLflow run carries it as the tag `dvc.key`.
        url: what opens the run, relative to the report's page; None when nothing does.
        dirty: the run was made from files that differ from the commit.
    """

    key: str
    url: str | None
    commit: str
    dirty: bool


@dataclass(frozen=True)
class Result:
    """What one experiment left behind.

    Attributes:
        config: the resolved entry of params.yaml.
        stage: the DVC stage, such as "probe@simclr_linear".
        command: what makes the result again, such as "dvc repro probe@simclr_linear".
        metrics: by name, what `mlml.statistics.summarise` returns.
        curves: CSV with columns step, seed and metrics.
        search: folder with best.yaml, trials.csv, sentences.json and pictures.
        diagnostics: file of `mlml.diagnostics_file`.
        sentences: what a study or an illustration found, in words; each of its pictures has a twin for dark pages,
            "<kind>_dark.png".
        searched: of a searched experiment, which one it is and which search found its values.
    """

    name: str
    family: str
    method: str
    dataset: str
    seeds: Sequence[int]
    config: Mapping[str, Any]
    stage: str
    command: str
    metrics: Mapping[str, Mapping[str, float | None]]
    curves: Path | None = None
    figures: Sequence[Path] = ()
    search: Path | None = None
    sentences: Sequence[str] = ()
    run: RunLink | None = None
    diagnostics: Path | None = None
    searched: SearchedEntry | None = None


def leaderboard(results: Sequence[Result]) -> pd.DataFrame:
    """Return one row for each probe of an encoder, by data set, then by the encoder's best mean, then as declared.

    A probe's column is its method; where probes of one method differ in their numbers, those are part of the label,
    since accuracies under different protocols do not compare. `gain` is the mean less that of the random encoder of
    the same network, data set and probe; empty where there is none. Accuracies and gains are fractions.

    Raises:
        ValueError: a probe without test accuracy, or of an encoder that has no result.
    """
    encoders = {result.name: result for result in results if result.family != "probe"}
    # a probe without an accuracy, such as `health`, is no row of a leaderboard; its pictures are shown
    probes = [
        result for result in results if result.family == "probe" and (SCORE in result.metrics or not result.figures)
    ]
    labels = _probe_labels(probes)
    rows = [_row(probe, encoders, labels[probe.name]) for probe in probes]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    frame["gain"] = _gains(rows, encoders)
    best = frame.groupby(["dataset", "encoder"])["mean"].transform("max")
    declared = frame["probe"].map({label: place for place, label in enumerate(frame["probe"].unique())})
    order = frame.assign(best=best, declared=declared).sort_values(
        ["dataset", "best", "encoder", "declared", "stage"], ascending=[True, False, True, True, True]
    )
    return order[list(_COLUMNS)].reset_index(drop=True)


def write_report(
    results: Sequence[Result],
    title: str,
    folder: Path,
    provenance: Mapping[str, str],
    comparisons: Sequence[ComparisonConfig] = (),
) -> None:
    """Write `index.html`, which needs no other file and no network, and `leaderboard.csv`.

    Args:
        results: of all experiments, in the order to show them.
        title: of the page.
        folder: to write to; made when absent.
        provenance: what the page's head says of its making. "commit" and "dirty" ("true" or "false") are shown as a
            commit and a warning; any further key, such as "torch" or "device", as it stands.
        comparisons: what to set side by side.

    Raises:
        ValueError: as `leaderboard`, or a compared experiment lacks the metric.
    """
    frame = leaderboard(results)
    by_stage = {result.stage: result for result in results}
    evaluations = [result for result in results if result.family == "evaluation"]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        commit=provenance.get("commit", ""),
        dirty=provenance.get("dirty", "false").lower() == "true",
        versions={key: value for key, value in provenance.items() if key not in ("commit", "dirty")},
        comparisons=[_comparison(config, results) for config in comparisons],
        boards=[_board(board, by_stage) for _, board in frame.groupby("dataset")],
        encoders=[result.name for result in results if result.family in ("pretext", "supervised")],
        supervised=[_experiment(result) for result in results if result.family == "supervised"],
        seen=[_experiment(result) for result in results if result.family in _SEEING and result.figures],
        generated=[_experiment(result) for result in results if result.family in _GENERATED],
        evaluations=report_evaluations.tables(evaluations, _number),
        evaluated={result.name: _experiment(result) for result in evaluations},
        findings=[_finding(result) for result in results if result.family in ("study", "illustration")],
        searches=[_search(result) for result in results if result.family == "search"],
        searched=report_searched.sections(results, _comparison),
        curves=[curve for result in results if (curve := _curves(result)) is not None],
        diagnoses=[
            _experiment(result) | found
            for result in results
            if (found := report_diagnosis.of(result.diagnostics, _themed)) is not None
        ],
        appendix=[
            _experiment(result) | {"config": _yaml(result.config)}
            for family in dict.fromkeys([*_FAMILIES, *(result.family for result in results)])
            for result in results
            if result.family == family
        ],
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page, encoding="utf-8")
    frame.to_csv(folder / "leaderboard.csv", index=False, lineterminator="\n")


def _row(probe: Result, encoders: Mapping[str, Result], label: str) -> dict[str, Any]:
    """One row of the leaderboard, but for its gain."""
    name = probe.config["encoder"]
    if name not in encoders:
        raise ValueError(f"{probe.stage}: its encoder {name!r} has no result (known: {', '.join(sorted(encoders))})")
    if SCORE not in probe.metrics:
        raise ValueError(f"{probe.stage}: a probe must have the metric {SCORE!r}; got {', '.join(probe.metrics)}")
    encoder, score = encoders[name], probe.metrics[SCORE]
    return {
        "dataset": probe.dataset,
        "encoder": name,
        "family": encoder.family,
        "method": encoder.method,
        "network": _network(encoder),
        "encoder_dataset": encoder.dataset,
        "baseline": encoder.family == "supervised" or encoder.method == "random",
        "probe": label,
        "mean": score["mean"],
        "interval95": score["interval95"],
        "seeds": len(probe.seeds),
        "key": probe.run.key if probe.run else "",
        "commit": probe.run.commit if probe.run else "",
        "stage": probe.stage,
        "command": probe.command,
    }


def _gains(rows: Sequence[Mapping[str, Any]], encoders: Mapping[str, Result]) -> list[float | None]:
    """Mean of each row less that of its random baseline: same data set, same probe, same network."""

    def key(row: Mapping[str, Any]) -> str:
        return repr((row["dataset"], row["probe"], encoders[row["encoder"]].config.get("encoder")))

    floor = {key(row): row["mean"] for row in rows if row["method"] == "random"}
    return [
        None if row["method"] == "random" or key(row) not in floor else row["mean"] - floor[key(row)] for row in rows
    ]


def _probe_labels(probes: Sequence[Result]) -> dict[str, str]:
    """Label of each probe: its method, and those of its numbers in which it differs from its like on the data set."""
    labels = {}
    for probe in probes:
        like = [other for other in probes if (other.method, other.dataset) == (probe.method, probe.dataset)]
        settings = [_flat({k: v for k, v in other.config.items() if k not in _OWN_KEYS}) for other in like]
        own = settings[like.index(probe)]
        varying = [key for key in own if any(other.get(key) != own[key] for other in settings)]
        labels[probe.name] = " ".join([probe.method, *(f"{key}={own[key]}" for key in varying)])
    return labels


def _board(frame: pd.DataFrame, by_stage: Mapping[str, Result]) -> dict[str, Any]:
    """Leaderboard of one data set, for the template."""
    rows = frame.to_dict("records")
    compared = [row for row in rows if not row["baseline"]]
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    best = {probe: max((row["mean"] for row in compared if row["probe"] == probe), default=None) for probe in probes}
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["encoder"], {"row": row, "cells": {probe: [] for probe in probes}})
        is_best = not row["baseline"] and row["mean"] == best[row["probe"]]
        cell = _number(SCORE, by_stage[row["stage"]]) | {"gain": _points(row["gain"]), "best": is_best}
        line["cells"][row["probe"]].append(cell | {"probe": row["probe"], "encoder": row["encoder"]})
    cells = [cell for line in lines.values() for column in line["cells"].values() for cell in column]
    return {
        "dataset": rows[0]["dataset"],
        "probes": probes,
        "groups": [
            [line for line in lines.values() if line["row"]["baseline"] == baseline] for baseline in (False, True)
        ],
        "leaders": [cell for cell in cells if cell["best"]],
        "cells": cells,
        "plot": _themed(lambda theme: figures.leaderboard_plot(frame, theme)),
    }


def _number(metric: str, result: Result) -> dict[str, Any]:
    """One number, for the template: its text, and the way back to where it came from."""
    summary = result.metrics[metric]
    seeds = [key for key in summary if key.startswith("seed_")]
    return {
        "metric": metric,
        "unit": "%" if is_share(metric) else "",
        "text": _text(metric, summary["mean"]),
        "interval": _text(metric, summary["interval95"], digits=2),
        "by_seed": {key.removeprefix("seed_"): _text(metric, summary[key]) for key in seeds},
        "seeds": len(result.seeds),
        "run": result.run,
        "href": _href(result.run),
        "title": _title(result.run),
        "command": result.command,
    }


def _text(metric: str, value: float | None, digits: int = 4) -> str:
    """A value as the page shows it: shares in percent with one decimal, others to some digits; "" for none."""
    if value is None:
        return ""
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.{digits}g}"


def _experiment(result: Result) -> dict[str, Any]:
    """One experiment with its numbers and pictures, for the template."""
    numbers = [_number(metric, result) for metric in result.metrics]
    return {
        "result": result,
        "network": _network(result),
        "numbers": numbers,
        "headline": [number for number in numbers if number["metric"].startswith("test/")] or numbers,
        "pictures": _pictures(result.figures),
        "run": result.run,
        "href": _href(result.run),
        "title": _title(result.run),
    }


def _pictures(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Pictures by what they show, in the usual order; "seed_0_samples.png" shows "samples" of seed 0."""
    kinds: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for path in paths:
        match = re.fullmatch(r"seed_(\d+)_(.+)", path.stem)
        seed, kind = match.groups() if match else ("", path.stem)
        kinds.setdefault(kind.replace("_", " "), []).append((int(seed or 0), {"seed": seed, "uri": _file_uri(path)}))
    return [
        {"kind": kind, "files": [file for _, file in sorted(kinds[kind], key=lambda item: item[0])]}
        for kind in [*(kind for kind in _PICTURES if kind in kinds), *sorted(kinds.keys() - set(_PICTURES))]
    ]


def _search(result: Result) -> dict[str, Any]:
    """One search, for the template."""
    found = {"best": {}, "front": _front([]), "sentences": [], "columns": [], "trials": [], "num_trials": 0}
    search = _experiment(result) | found
    paths = list(result.figures)
    if result.search is not None:
        trials = pd.read_csv(result.search / "trials.csv")
        best = YAML(typ="safe").load(result.search / "best.yaml") or {}
        search["front"] = _front(best.pop("front", []))
        search["best"] = _flat(best)
        search["sentences"] = json.loads((result.search / "sentences.json").read_text(encoding="utf-8"))
        search["columns"] = list(trials.columns)
        search["trials"] = [[_plain(value) for value in row] for row in trials.head(MAX_TRIALS).to_numpy(dtype=object)]
        search["num_trials"] = len(trials)
        paths += sorted(result.search.glob("*.png"))
    wide = {path.stem for path in paths if _width(path) > _WIDE_PIXELS}
    search["pictures"] = [
        picture | {"says": _OF_SEARCH.get(picture["kind"], ""), "wide": picture["kind"] in wide}
        for picture in _pictures(paths)
    ]
    return search


def _width(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def _front(front: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The Pareto front of a search, for the template; empty for a search with one objective."""
    rows = [{"trial": entry["trial"]} | entry["values"] | _flat(entry["overrides"]) for entry in front]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {"columns": columns, "rows": [[_plain(row.get(column, "")) for column in columns] for row in rows]}


def _finding(result: Result) -> dict[str, Any]:
    """One study or illustration, for the template."""
    light = [path for path in result.figures if not path.stem.endswith("_dark")]
    drawn = [
        {
            "kind": path.stem.replace("_", " "),
            "light": _file_uri(path),
            "dark": _file_uri(path.with_stem(f"{path.stem}_dark")),
        }
        for path in light
    ]
    return _experiment(replace(result, figures=())) | {"drawn": drawn}


def _comparison(config: ComparisonConfig, results: Sequence[Result]) -> dict[str, Any]:
    """One comparison, for the template."""
    by_name = {result.name: result for result in results}
    members = [
        comparison.Member(
            name=name,
            dataset=by_name[name].dataset,
            summary=comparison.summary_of(config, name, by_name[name].metrics),
            curves=_frame(by_name[name]),
        )
        for name in config.of
    ]
    found = comparison.compare(config, members)
    drawn = comparison.plot(config, members) is not None
    rows = [
        {
            "name": standing.member.name,
            "number": _number(config.metric, by_name[standing.member.name]),
            "gap": comparison.gap_text(config.metric, standing.gap) if standing.gap else "",
            "range": comparison.range_text(config.metric, standing.gap) if standing.gap else "",
            "verdict": standing.verdict,
            "quick": "" if standing.quick is None else f"{standing.quick:.0f}",
        }
        for standing in found.standings
    ]
    target = comparison.score_text(config.metric, found.target) if found.target is not None else ""
    plot = _themed(lambda theme: cast(Figure, comparison.plot(config, members, theme))) if drawn else None
    return {"config": config, "rows": rows, "target": target, "sentences": found.sentences, "plot": plot}


def _frame(result: Result) -> pd.DataFrame:
    """Curves of the seeds of a result, which may be some of those that the file has."""
    if result.curves is None:
        return pd.DataFrame()
    frame = pd.read_csv(result.curves)
    return frame[frame["seed"].isin(result.seeds)]


def _curves(result: Result) -> dict[str, Any] | None:
    """Learning curves of one experiment, for the template; None when it has none."""
    frame = _frame(result)
    names = [name for name in frame.columns if name not in ("step", "seed") and frame[name].notna().any()]
    if not names:
        return None
    panels = len({name.rpartition("/")[2] for name in names})
    plot = _themed(lambda theme: figures.curves(frame, theme))
    return _experiment(result) | {"plot": plot, "panels": min(panels, 3)}


def _themed(draw: Callable[[figures.Theme], Figure]) -> dict[str, str]:
    """A plot drawn for light and for dark pages, as data URIs."""
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    return {name: _data_uri(figures.svg(draw(theme)), "image/svg+xml") for name, theme in themes.items()}


def _file_uri(path: Path) -> str:
    mime, _ = mimetypes.guess_type(path.name)
    if mime is None or not mime.startswith("image/"):
        raise ValueError(f"{path}: must be a picture by its ending, such as .png")
    return _data_uri(path.read_bytes(), mime)


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _href(run: RunLink | None) -> str | None:
    """Address of a run's page, on the web or by a path from here; anything else, such as a script, is not linked."""
    if run is None or not run.url:
        return None
    parts = urlsplit(run.url)
    return run.url if parts.scheme in ("http", "https") or not (parts.scheme or parts.netloc) else None


def _title(run: RunLink | None) -> str:
    """Tooltip of a number."""
    if run is None:
        return "no MLflow run is known for this number"
    dirty = " with uncommitted changes" if run.dirty else ""
    unlinked = "" if _href(run) else "; nothing shows it"
    return f"run of key {run.key}, commit {run.commit}{dirty}{unlinked}"


def _points(gain: float | None) -> str:
    """A gain in points with its sign; "" for none."""
    return "" if gain is None or pd.isna(gain) else f"{100 * gain:+.1f}".replace("-", "\N{MINUS SIGN}")


def _network(result: Result) -> str:
    """Name of the experiment's network; "" for none."""
    encoder = result.config.get("encoder")
    return str(encoder.get("network", "")) if isinstance(encoder, Mapping) else ""


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> str:
    """A cell of a table: floats to four digits, nothing for a missing value."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)


def _yaml(config: Mapping[str, Any]) -> str:
    """A resolved config as it would stand in params.yaml."""
    yaml, buffer = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(config), buffer)
    return buffer.getvalue()
