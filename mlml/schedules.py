"""Learning-rate schedules: functions of the step, and of the validation losses where they say so.

Notation: `progress` runs from 0 at the end of the warm-up to 1 at the end of the run; a factor multiplies the
optimizer's learning rate.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mlml.config import (
    CosineSchedule,
    CyclicalSchedule,
    ExponentialSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    PolynomialSchedule,
    ScheduleConfig,
    StepSchedule,
)


def constant(progress: float, config: Any) -> float:
    """The full rate all along."""
    return 1.0


def linear(progress: float, config: LinearSchedule) -> float:
    """A straight line from 1 to `final_factor`."""
    return config.final_factor + (1 - config.final_factor) * (1 - progress)


def polynomial(progress: float, config: PolynomialSchedule) -> float:
    """From 1 to `final_factor` by a power of what is left of the run."""
    return config.final_factor + (1 - config.final_factor) * math.pow(1 - progress, config.power)


def cosine(progress: float, config: CosineSchedule) -> float:
    """Half a cosine wave from 1 to `final_factor` (Loshchilov & Hutter 2017, arXiv:1608.03983, Eq. 5, one period)."""
    return _half_wave(1.0, config.final_factor, progress)


def exponential(progress: float, config: ExponentialSchedule) -> float:
    """From 1 to `final_factor`, by the same ratio in every step."""
    return math.pow(config.final_factor, progress)


def step(progress: float, config: StepSchedule) -> float:
    """1, times `gamma` for each milestone that is reached."""
    return math.pow(config.gamma, sum(progress >= milestone for milestone in config.milestones))


def cyclical(progress: float, config: CyclicalSchedule) -> float:
    """Triangles from `low_factor` up to 1 and back (Smith 2017, arXiv:1506.01186, section 3)."""
    cycle = min(math.floor(progress * config.num_cycles), config.num_cycles - 1)
    height = 1 - abs(2 * (progress * config.num_cycles - cycle) - 1)  # 0 at both ends of a cycle, 1 in its middle
    if config.mode == "triangular2":
        height /= 2**cycle
    return config.low_factor + (1 - config.low_factor) * height


def one_cycle(progress: float, config: OneCycleSchedule) -> float:
    """From `initial_factor` to 1 and on to `final_factor` (Smith & Topin 2018, arXiv:1708.07120, section 3)."""
    rise = config.rise_fraction
    if progress < rise:
        return _half_wave(config.initial_factor, 1.0, progress / rise)
    return _half_wave(1.0, config.final_factor, (progress - rise) / (1 - rise))


SCHEDULES: dict[str, Callable[[float, Any], float]] = {
    "constant": constant,
    "linear": linear,
    "polynomial": polynomial,
    "cosine": cosine,
    "exponential": exponential,
    "step": step,
    "cyclical": cyclical,
    "one_cycle": one_cycle,
    "plateau": constant,
}
"""Name in the declaration -> function of (progress, config); `Plateau` lowers the rate of the last by itself."""


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Return what the learning rate of a step is multiplied by.

    The warm-up is a straight line that is 0 one step before the run, so that no step is lost to a rate of 0, and
    reaches what the curve begins with at step `warmup_steps`.

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
    curve = SCHEDULES[config.name]
    if step < warmup:
        return curve(0.0, config) * (step + 1) / (warmup + 1)
    return curve((step - warmup) / (steps - warmup), config)


class Plateau(NamedTuple):
    """What the schedule "plateau" knows of the validation losses so far; plain numbers, for a checkpoint.

    Attributes:
        factor: of the learning rate.
        best: the lowest loss.
        bad: evaluations since then, or since the factor was lowered.
        cooling: evaluations that are still not counted.
    """

    factor: float = 1.0
    best: float = math.inf
    bad: int = 0
    cooling: int = 0

    def after(self, config: ScheduleConfig, loss: float) -> "Plateau":
        """Return what is known after one more evaluation; other schedules learn nothing from it."""
        if not isinstance(config, PlateauSchedule):
            return self
        better = self.best == math.inf or loss < self.best - config.threshold * abs(self.best)
        best, bad = (loss, 0) if better else (self.best, self.bad + 1)
        cooling = self.cooling
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > config.patience:
            lowered = max(self.factor * config.gamma, config.min_factor)
            return Plateau(lowered, best, 0, config.cooldown)
        return Plateau(self.factor, best, bad, cooling)


def _half_wave(start: float, end: float, progress: float) -> float:
    """From `start` to `end` by half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
