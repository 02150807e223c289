"""What a training is between two steps, and how it is ended there to go on later."""

import math
from dataclasses import dataclass, field

from mlml import schedules


class Pause(Exception):
    """Raised by who watches a training, to end it here with a checkpoint."""


@dataclass
class State:
    """What a checkpoint holds besides tensors of the method and of the optimizers."""

    step: int = 0
    stopped: bool = False
    best: float = math.inf
    bad_evaluations: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    last_finite: dict[str, float] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)  # of the window
    offset: int = 0  # of the points file
    plateau: tuple[float, ...] = tuple(schedules.Plateau())  # what the learning rate learnt from evaluations
    seconds: float = 0.0  # until now, of all processes that took part one after another
    peak_bytes: int = 0  # the same of their memory
