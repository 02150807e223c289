"""What a study or an illustration leaves: numbers, pictures, a table, and sentences made from the numbers."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from mlml.figures import Theme

Draw = Callable[[Theme], Figure]


class Findings(NamedTuple):
    """What was found.

    Attributes:
        metrics: by seed, the same names for every seed.
        table: every number behind the pictures.
        pictures: by what they show, how to draw them in the colours of a theme.
        sentences: what was seen.
    """

    metrics: Mapping[int, Mapping[str, float]]
    table: pd.DataFrame
    pictures: Mapping[str, Draw]
    sentences: tuple[str, ...]
