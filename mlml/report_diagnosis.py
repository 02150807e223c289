"""What the report shows of a diagnosis: the sentences, and the layers over the steps of one seed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mlml import diagnostics_file
from mlml.figures import Theme
from mlml.figures_layers import layers_plot

Themed = Callable[[Callable[[Theme], Figure]], dict[str, str]]
"""Draws a plot for light and for dark pages: (draw) -> data URI by theme."""


def of(path: Path | None, themed: Themed) -> dict[str, Any] | None:
    """One experiment's diagnosis, for the template; None when there is none, as of one that trains nothing.

    The seed that is shown is the first with an illness, or else the first.

    Args:
        path: of the file that `mlml.diagnostics_file` wrote.
        themed: makes the page's pictures.
    """
    content = json.loads(path.read_text()) if path is not None else {"seeds": {}}
    seeds = content["seeds"]
    measured = {seed: of_seed for seed, of_seed in seeds.items() if of_seed["layers"]}
    sentences = diagnostics_file.sentences(content) if seeds else []
    if not measured and not sentences:
        return None
    ill = [seed for seed, of_seed in measured.items() if of_seed["verdicts"]]
    shown = next(iter([*ill, *measured]), None)
    plot = None
    if shown is not None:
        steps, layers = seeds[shown]["steps"], seeds[shown]["layers"]
        plot = themed(lambda theme: layers_plot(steps, layers, theme))
    return {"sentences": sentences, "plot": plot, "shown_seed": shown}
