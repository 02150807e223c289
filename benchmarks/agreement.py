"""Whether two trainings that draw their own noise learn alike."""

from typing import NamedTuple

import torch
from torch import Tensor

ERRORS = 3.0
"""Standard errors within which a mean difference counts as none."""
LEAST_WINDOW = 10
"""Steps of a window at least: of fewer the standard error is not known well enough."""


class Curve(NamedTuple):
    """Losses of a training over windows of steps, and what lies between them and another's.

    Attributes:
        means: of the losses.
        differences: means of the differences step by step, which the trend does not widen.
        errors: standard errors of those means.
    """

    means: list[float]
    differences: list[float]
    errors: list[float]

    @property
    def agrees(self) -> bool:
        """Whether no window's difference exceeds `ERRORS` standard errors."""
        return all(abs(d) <= ERRORS * e for d, e in zip(self.differences, self.errors, strict=True))


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
    return Curve(own.mean(1).tolist(), between.mean(1).tolist(), errors.tolist())


def show(losses: dict[str, list[Tensor]], reference: str) -> None:
    """Print each training's losses beside the reference's, and whether they agree."""
    rows = {name: torch.stack(row) for name, row in losses.items()}
    print(f"  losses, and in brackets how far from those of '{reference}', in standard errors of the difference:")
    for name, row in rows.items():
        curve = compare(row, rows[reference])
        if name == reference:
            print(f"    {name:<32}" + "".join(f"{mean:>10.4f}        " for mean in curve.means))
            continue
        far = [d / e if e > 0 else 0.0 for d, e in zip(curve.differences, curve.errors, strict=True)]
        shown = "".join(f"{mean:>10.4f} ({z:>+5.1f})" for mean, z in zip(curve.means, far, strict=True))
        print(f"    {name:<32}{shown}  {'agrees' if curve.agrees else 'DIFFERS'}")
