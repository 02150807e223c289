"""What a search leaves for people: `best.yaml`, `trials.csv`, `sentences.json` and pictures.

All are functions of the records: no times, no names of machines, so that the same search gives the same bytes.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ruamel.yaml import YAML

from mlml.config import SearchConfig, overridden
from mlml.figures import write_png
from mlml.search._convergence import sentences
from mlml.search._figures import front_plot, history_plot, importance_plot
from mlml.search._front import objectives, pareto_front
from mlml.search._importance import known
from mlml.search._parallel import parallel_plot
from mlml.search._scale import numeric
from mlml.search._slices import slices_plot
from mlml.search._study import Record, best


def write_outputs(config: SearchConfig, records: Sequence[Record], folder: Path) -> list[str]:
    """Write the files of a search; `folder` is made when absent.

    best.yaml holds `overrides`, nested as in the experiment's entry, and where they come from; with several objectives
    also the `front`. trials.csv has a row for each trial, pruned and failed ones included. Of the pictures,
    contour.png, front.png, parallel.png and posterior.png are there where they have something to show.

    Returns:
        The sentences in sentences.json.

    Raises:
        ValueError: no trial is complete.
    """
    best(records, config.direction)
    folder.mkdir(parents=True, exist_ok=True)
    YAML().dump(_found(config, records), folder / "best.yaml")
    _write_trials(config, records, folder / "trials.csv")
    said = sentences(config, records)
    (folder / "sentences.json").write_text(json.dumps(said, indent=0, ensure_ascii=False) + "\n")
    for name, plot in _plots(config, known(config, records)).items():
        if (figure := plot(config, records)) is not None:
            write_png(figure, folder / f"{name}.png")
    return said


def _plots(
    config: SearchConfig, shares: Mapping[str, float]
) -> Mapping[str, Callable[[SearchConfig, Sequence[Record]], Figure | None]]:
    """The pictures by name; the importances, which take seconds, are drawn in one and choose what another shows."""
    plots: dict[str, Callable[[SearchConfig, Sequence[Record]], Figure | None]] = {
        "history": history_plot,
        "importance": partial(importance_plot, shares=shares),
        "front": front_plot,
        "slices": slices_plot,
        "parallel": parallel_plot,
    }
    if numeric(config.space):  # not above: these import BoTorch
        from mlml.search._contour import contour_plot
        from mlml.search._posterior import posterior_plot

        plots |= {"posterior": posterior_plot, "contour": partial(contour_plot, shares=shares)}
    return plots


def _found(config: SearchConfig, records: Sequence[Record]) -> dict[str, Any]:
    """What best.yaml holds."""
    front = pareto_front(records, config)
    content: dict[str, Any] = {
        "experiment": config.experiment,
        "objective": config.objective,
        "metric": config.metric,
        "direction": config.direction,
        "value": front[0].value,
        "trial": front[0].number,
        "overrides": overridden({}, front[0].parameters),
    }
    if config.further_objectives:
        content["front"] = [
            {
                "trial": record.number,
                "values": objectives(record, config),
                "overrides": overridden({}, record.parameters),
            }
            for record in front
        ]
    return content


def _write_trials(config: SearchConfig, records: Sequence[Record], path: Path) -> None:
    further = list(config.further_objectives)
    continues = ["continues"] if config.pruner == "asha" else []
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "state", "value", *further, *config.space, *continues, "evaluations", "failure"])
        for record in records:
            row: list[Any] = [record.number, record.state, record.value]
            row += [record.further.get(metric) for metric in further]
            row += [record.parameters.get(name) for name in config.space]
            row += [record.continues] * len(continues)
            row += [len(record.evaluations), record.failure]
            writer.writerow(["" if cell is None else cell for cell in row])
