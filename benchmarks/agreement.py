"""Whether two trainings that draw their own noise learn alike.

Losses of single steps are compared over windows of steps, by Student's t of their differences. Of two trainings that
do learn alike one in a hundred is to be called different, whatever the number of windows (Bonferroni); the bound is 2.8
standard errors for one window of 27 steps, and 3.4 for each of five. That weights drift apart is not in it: two runs
that compute the same may well lie as far from each other as the bound.
"""

from typing import NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor

LEVEL = 0.01
"""Share of pairs that learn alike and are called different."""
LEAST_WINDOW = 10
"""Steps of a window at least: of fewer the standard error is not known well enough."""


class Curve(NamedTuple):
    """Losses of a training over windows of steps, and what lies between them and another's.

    Attributes:
        means: of the losses.
        differences: means of the differences step by step, which the trend does not widen.
        errors: standard errors of those means.
        bound: standard errors that no window's difference may exceed.
        length: steps of a window.
    """

    means: list[float]
    differences: list[float]
    errors: list[float]
    bound: float
    length: int

    @property
    def agrees(self) -> bool:
        """Whether every window's difference lies within the bound."""
        return all(abs(d) <= self.bound * e for d, e in zip(self.differences, self.errors, strict=True))


def compare(losses: Tensor, others: Tensor, most_windows: int = 5) -> Curve:
    """Compare losses of single steps with another's, over the steps that both have.

    Raises:
        ValueError: they have fewer steps in common than one window.
    """
    steps = min(len(losses), len(others))
    windows = min(most_windows, steps // LEAST_WINDOW)
    if windows == 0:
        raise ValueError(f"losses: must be of at least {LEAST_WINDOW} steps; got {steps}")
    length = steps // windows
    own, other = (row[: windows * length].double().view(windows, length) for row in (losses, others))
    between = own - other  # (windows, length)
    errors = between.std(1) / length**0.5
    bound = float(student.isf(LEVEL / 2 / windows, length - 1))
    return Curve(own.mean(1).tolist(), between.mean(1).tolist(), errors.tolist(), bound, length)


def show(losses: dict[str, list[Tensor]], reference: str) -> None:
    """Print each training's losses beside the reference's, whether they agree, and the bound for that."""
    rows = {name: torch.stack(row) for name, row in losses.items()}
    length = min(compare(row, rows[reference]).length for row in rows.values())
    print(f"  losses of {length} steps each, and how far they are from '{reference}' in standard errors:")
    for name, row in rows.items():
        curve = compare(row, rows[reference])
        if name == reference:
            print(f"    {name:<32}" + "".join(f"{mean:>10.4f}        " for mean in curve.means))
            continue
        far = [d / e if e > 0 else 0.0 for d, e in zip(curve.differences, curve.errors, strict=True)]
        shown = "".join(f"{mean:>10.4f} ({z:>+5.1f})" for mean, z in zip(curve.means, far, strict=True))
        print(f"    {name:<32}{shown}  {'agrees' if curve.agrees else 'DIFFERS'} ({curve.bound:.1f})")
