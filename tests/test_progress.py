import io
import logging
import sys

import pytest

from mlml.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_plain_lines(caplog):
    with caplog.at_level(logging.INFO):
        progress = Progress(steps=40, start=0, images_per_step=16)
        progress.update(20, {"train/loss": 1.5, "train/accuracy": 0.5})
        progress.update(40, {"train/loss": 1.25, "train/accuracy": 0.5})
        progress.close()
    [line] = caplog.messages  # the first came too soon; the last always comes
    assert line.startswith("step 40/40  train/loss 1.25  ")
    assert line.endswith("images/s  0:00 left")
    assert progress.images_per_second > 0


def test_a_terminal_gets_one_live_line(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO):
        progress = Progress(steps=40, start=10, images_per_step=16)
        progress.update(20, {"train/loss": 1.5})
        progress._bar.refresh()
        progress.close()
    shown = terminal.getvalue()
    assert "step 20/40" in shown
    assert "train/loss 1.5" in shown
    assert "images/s" in shown
    assert "left" in shown
    assert "\n" not in shown
    assert not caplog.messages


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_durations(seconds, text):
    assert clock(seconds) == text
