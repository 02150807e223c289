"""What the training loop hears of alarms while it runs: it warns, or ends a run that is lost."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mlml import alarms
from mlml.diagnostics import Record, Verdict
from mlml.series import Series

logger = logging.getLogger(__name__)


class AlarmWatch:
    """The metrics by which alarms are judged, and the weights from before the last one; all of it in the checkpoint.

    Args:
        stops: whether an alarm at `alarms.LASTING` evaluations in a row ends the run.

    Attributes:
        lost: whether it did.
        sound: weights at the last evaluation without an alarm, and their metrics; kept where an alarm may end the run.
    """

    def __init__(self, stops: bool) -> None:
        self.stops, self.lost, self.in_a_row = stops, False, 0
        self.series: dict[str, Series] = {}
        self.sound: tuple[dict[str, Tensor], dict[str, float]] | None = None
        self._said: list[str] = []  # kinds of alarms

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Keep what is logged, if an alarm is judged by it."""
        for name in alarms.WATCHED:
            if name in values:
                self.series.setdefault(name, []).append((step, values[name]))

    def listen(self, step: int, weights: Mapping[str, Tensor], metrics: Mapping[str, float]) -> bool:
        """Judge the run at an evaluation; returns whether it is to end.

        Each kind of alarm is told once.

        Args:
            step: of the evaluation.
            weights: that were evaluated.
            metrics: of the evaluation.
        """
        heard: list[Verdict] = alarms.heard(Record({}, self.series)) if self.series else []
        for verdict in heard:
            if verdict.kind not in self._said:
                self._said.append(verdict.kind)
                logger.warning("step %d: %s", step, verdict.sentence)
        self.in_a_row = self.in_a_row + 1 if heard else 0
        if self.stops and not heard:
            self.sound = {name: value.clone() for name, value in weights.items()}, dict(metrics)
        self.lost = self.stops and self.in_a_row >= alarms.LASTING
        if self.lost:
            logger.warning("stopped at step %d: an alarm at %d evaluations in a row", step, self.in_a_row)
        return self.lost

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {name: value for name, value in vars(self).items() if name != "stops"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.__dict__.update(state)
