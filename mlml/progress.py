"""How far a run is: a live line in a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from mlml import distributed, status
from mlml.status import clock

logger = logging.getLogger(__name__)

BAR_FORMAT = "step {n_fmt}/{total_fmt} {bar:24}{postfix}, {remaining} left"

LINE_SECONDS = 10.0
"""At most one plain line in this many seconds."""


class Progress:
    """Shows loss, images per second and time left. Only rank 0 speaks.

    Args:
        steps: of the whole run.
        start: steps already done by an earlier process.
        images_per_step: over all ranks.
    """

    def __init__(self, steps: int, start: int, images_per_step: int) -> None:
        self.steps, self.start, self.images_per_step = steps, start, images_per_step
        self.images_per_second = 0.0
        self._began = self._last_line = self._last_time = time.monotonic()
        self._last_step = start
        live = sys.stderr.isatty() and distributed.rank() == 0
        self._bar = (
            tqdm(total=steps, initial=start, leave=False, dynamic_ncols=True, bar_format=BAR_FORMAT) if live else None
        )

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the state after `step` steps; `values` are the latest means."""
        now = time.monotonic()
        self.images_per_second = (step - self._last_step) * self.images_per_step / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        if distributed.rank() != 0:
            return
        left = (self.steps - step) * (now - self._began) / max(step - self.start, 1)
        losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name.endswith("/loss"))
        speed = f"{self.images_per_second:,.0f} images/s"
        status.count(step, self.steps, left, f"{losses}  {speed}")
        if self._bar is not None:
            self._bar.set_postfix_str(f"{losses}  {speed}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_line >= LINE_SECONDS or step == self.steps:
            self._last_line = now
            logger.info("step %d/%d  %s  %s  %s left", step, self.steps, losses, speed, clock(left))

    def close(self) -> None:
        """Take the live line away."""
        if self._bar is not None:
            self._bar.close()
