"""Surfaces of two numbers on which optimizers are shown: each a loss with a known minimum."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Surface(NamedTuple):
    """A loss of (x, y).

    Attributes:
        loss: of two tensors of one shape.
        minimum: the lowest loss.
        solved: an optimizer that came below this loss has passed what makes the surface hard.
        hurdle: what that is, for a sentence: "left the saddle".
        view: x from, x to, y from, y to.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    minimum: float
    solved: float
    hurdle: str
    view: tuple[float, float, float, float]


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """x² - y² + y⁴/4: a saddle at (0, 0), loss 0, between two minima at (0, ±√2), loss -1."""
    return x**2 - y**2 + y**4 / 4


def plateau(x: Tensor, y: Tensor) -> Tensor:
    """1 - exp(-(x² + y²)/2): flat far from its minimum at (0, 0), loss 0."""
    return 1 - (-(x**2 + y**2) / 2).exp()


def ravine(x: Tensor, y: Tensor) -> Tensor:
    """(x² + 50 y²)/2: a bowl fifty times steeper in y than in x, with its minimum at (0, 0), loss 0."""
    return (x**2 + 50 * y**2) / 2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """(1 - x)² + 100 (y - x²)²: a bent valley with its minimum at (1, 1), loss 0 (Rosenbrock 1960)."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def beale(x: Tensor, y: Tensor) -> Tensor:
    """Sum of (c - x + x yⁿ)² with c = 1.5, 2.25, 2.625 for n = 1, 2, 3: minimum at (3, 0.5), loss 0 (Beale 1958)."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


SURFACES: dict[str, Surface] = {
    "saddle": Surface(saddle, -1.0, -0.5, "left the saddle", (-1.6, 1.6, -2.0, 2.0)),
    "plateau": Surface(plateau, 0.0, 0.5, "left the plateau", (-4.5, 4.5, -4.0, 4.0)),
    "ravine": Surface(ravine, 0.0, 0.01, "reached the bottom of the ravine", (-5.5, 5.5, -1.6, 1.6)),
    "rosenbrock": Surface(rosenbrock, 0.0, 0.01, "reached the end of the valley", (-2.0, 2.0, -1.0, 3.0)),
    "beale": Surface(beale, 0.0, 0.01, "reached the minimum", (-1.0, 4.5, -2.0, 2.0)),
}
"""Name in the declaration -> surface."""
