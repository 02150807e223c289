"""Learning-rate schedules: pure functions of the step.

Notation: `progress` runs from 0 at the end of the warm-up to 1 at the end of the run; a factor multiplies the
optimizer's learning rate.
"""

import math
from collections.abc import Callable

from mlml.config import ScheduleConfig


def constant(progress: float, final_factor: float) -> float:
    """The full rate all along; `final_factor` does not count."""
    return 1.0


def linear(progress: float, final_factor: float) -> float:
    """A straight line from 1 to `final_factor`."""
    return final_factor + (1 - final_factor) * (1 - progress)


def cosine(progress: float, final_factor: float) -> float:
    """Half a cosine wave from 1 to `final_factor` (Loshchilov & Hutter 2017, arXiv:1608.03983, Eq. 5, one period)."""
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, Callable[[float, float], float]] = {"constant": constant, "linear": linear, "cosine": cosine}
"""Name in the declaration -> function of (progress, final_factor)."""


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Return what the learning rate of a step is multiplied by.

    The warm-up is a straight line that is 0 one step before the run, so that no step is lost to a rate of 0, and
    reaches 1 at step `warmup_steps`, where the curve begins.

    Args:
        config: the curve and its numbers.
        step: from 0; `steps` itself is allowed, and gives the end of the curve.
        steps: length of the run, in optimizer steps.

    Raises:
        ValueError: the warm-up is not shorter than the run, or the step is not in the run.
    """
    warmup = config.warmup_steps
    if warmup >= steps:
        raise ValueError(
            f"schedule.warmup_steps: must be less than the {steps} steps of the run; got {warmup}; "
            "lower it or train longer"
        )
    if not 0 <= step <= steps:
        raise ValueError(f"schedule: the step must be in [0, {steps}]; got {step}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[config.name]((step - warmup) / (steps - warmup), config.final_factor)
