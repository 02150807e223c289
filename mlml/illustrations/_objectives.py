"""Functions that searches are compared on: each with a box of values and a minimum that is known. Nothing heavy here.

Formulas, boxes and minima are those of Surjanovic & Bingham, Virtual Library of Simulation Experiments
(https://www.sfu.ca/~ssurjano/optimization.html), which names the papers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Objective(NamedTuple):
    """A function to minimise.

    Attributes:
        function: of the values by name.
        box: by name, the lowest and the highest value.
        minimum: the lowest value in the box.
        minimisers: where it is taken, in the order of the box.
    """

    function: Callable[[Mapping[str, float]], float]
    box: Mapping[str, tuple[float, float]]
    minimum: float
    minimisers: tuple[tuple[float, ...], ...]

    def space(self) -> dict[str, dict[str, Any]]:
        """Return the box as the space of a search."""
        return {name: {"type": "float", "low": low, "high": high} for name, (low, high) in self.box.items()}


def branin(at: Mapping[str, float]) -> float:
    """(y - 5.1 x²/4π² + 5x/π - 6)² + 10 (1 - 1/8π) cos x + 10: three valleys of one depth (Branin 1972)."""
    x, y = at["x"], at["y"]
    bend = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


_HEIGHTS = (1.0, 1.2, 3.0, 3.2)
_STEEPNESS = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_CENTRES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann6(at: Mapping[str, float]) -> float:
    """-Σᵢ αᵢ exp(-Σⱼ Aᵢⱼ (xⱼ - Pᵢⱼ)²): four bumps in six dimensions (Hartman 1973).

    α is our `_HEIGHTS`, A `_STEEPNESS`, P `_CENTRES`.
    """
    found = 0.0
    for height, steepness, centre in zip(_HEIGHTS, _STEEPNESS, _CENTRES, strict=True):
        distance = sum(a * (x - p) ** 2 for a, x, p in zip(steepness, at.values(), centre, strict=True))
        found -= height * math.exp(-distance)
    return found


OBJECTIVES: dict[str, Objective] = {
    "branin": Objective(
        branin,
        {"x": (-5.0, 10.0), "y": (0.0, 15.0)},
        10 / (8 * math.pi),  # the square is 0 and cos x = -1
        ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)),
    ),
    "hartmann6": Objective(
        hartmann6,
        {f"x{k}": (0.0, 1.0) for k in range(1, 7)},
        -3.322368011415515,
        ((0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573),),
    ),
}
"""Name in the declaration -> function."""
