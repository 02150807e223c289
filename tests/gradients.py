"""Gradients of what is written as loops over NumPy arrays."""

from collections.abc import Callable

import numpy as np


def finite_differences(
    function: Callable[..., float], arrays: list[np.ndarray], step: float = 1e-5
) -> list[np.ndarray]:
    """Central differences of a function of float64 arrays, by each entry of each of them."""
    gradients = []
    for number, array in enumerate(arrays):
        gradient = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [other.copy() for other in arrays]
                moved[number][place] += sign * step
                ends.append(function(*moved))
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
        gradients.append(gradient)
    return gradients
