"""The curves are what the training loop multiplies its rate by, the plateau's included."""

import numpy as np
import pytest
import torch
from test_train import Regression, config, splits

from mlml import figures, points
from mlml.config import ConstantSchedule, CosineSchedule, OneCycleSchedule, PlateauSchedule, StepSchedule
from mlml.illustrations.schedule_curves import ScheduleCurves, factors, plot, sentences
from mlml.train import fit


@pytest.mark.parametrize("schedule", [CosineSchedule(warmup_steps=3), OneCycleSchedule(), StepSchedule()])
def test_factors_are_those_of_the_loop(tmp_path, schedule):
    numbers = {"schedule": schedule.model_dump(), "steps": 20, "evaluate_every": 100}
    fit(Regression(), *splits(), config(**numbers), 0, tmp_path)
    rates = [value for name, _, value in points.read(tmp_path / "points.jsonl") if name == "train/learning_rate"]
    np.testing.assert_allclose(factors(schedule, 20, ()) * 0.1, rates, rtol=1e-12)


def test_the_plateau_s_factors_are_those_of_the_loop(tmp_path):
    """The loop's own validation losses, given to the picture, lower its rate at the same steps."""
    schedule = PlateauSchedule(patience=0, gamma=0.5)
    numbers = {"schedule": schedule.model_dump(), "steps": 20, "evaluate_every": 2}
    optimizer = {"name": "sgd", "learning_rate": 1.2, "momentum": 0.0}  # diverges until it has been lowered
    torch.manual_seed(0)
    fit(Regression(), *splits(), config(**numbers, optimizer=optimizer), 0, tmp_path)
    logged = points.read(tmp_path / "points.jsonl")
    losses = tuple(value for name, _, value in logged if name == "validation/loss")
    rates = [value / 1.2 for name, _, value in logged if name == "train/learning_rate"]
    assert len(losses) == 10
    assert min(rates) <= 0.5
    np.testing.assert_allclose(factors(schedule, 20, losses), rates, rtol=1e-12)


def test_losses_are_heard_at_even_distances():
    schedule = PlateauSchedule(patience=0, gamma=0.1)
    found = factors(schedule, 10, (1.0, 1.0, 0.5, 0.5, 0.5))  # after steps 2, 4, 6, 8, 10
    np.testing.assert_allclose(found, [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def numbers(**changed):
    schedules = {"flat": {"name": "constant"}, "wave": {"name": "cosine"}, "up": {"name": "one_cycle"}}
    return {"steps": 100, "schedules": schedules, **changed}


def test_findings_are_those_of_the_curves():
    found = ScheduleCurves(ScheduleCurves.Config.model_validate(numbers())).illustrate()
    wave = factors(CosineSchedule(), 100, ())
    assert found.metrics[0]["wave/mean_factor"] == wave.mean() == pytest.approx(0.505)  # (n + 1) / 2n
    assert found.metrics[0]["flat/last_factor"] == 1
    np.testing.assert_array_equal(found.table["wave"], wave)
    assert found.sentences == sentences({"flat": np.ones(100), "wave": wave, "up": found.table["up"].to_numpy()})
    assert found.sentences[0] == "Of the full rate's sum over the run each spends: flat 100 %, up 51 %, wave 50 %."
    assert found.sentences[1] == "Highest after the beginning: up at step 30."
    assert found.sentences[2] == "Below a twentieth of the full rate in the last step: wave (0.00025), up (0.00051)."


def test_each_schedule_has_a_panel_of_its_own():
    curves = {"a": factors(ConstantSchedule(), 10, ()), "b": factors(CosineSchedule(), 10, ())}
    panels = plot(curves, figures.LIGHT).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["a", "b"]
    for axes, curve in zip(panels, curves.values(), strict=True):
        [own] = [line for line in axes.lines if line.get_color() == figures.LIGHT.series[0]]
        np.testing.assert_array_equal(own.get_ydata(), curve)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"validation_losses": (1.0,)}, "give 'validation_losses' if a schedule is 'plateau', and only then"),
        ({"schedules": {"p": {"name": "plateau"}}}, "give 'validation_losses' if a schedule is 'plateau'"),
        ({"schedules": {"p": {"name": "plateau"}}, "validation_losses": (1.0,) * 101}, "must be at most 100"),
        ({"schedules": {"w": {"name": "cosine", "warmup_steps": 100}}}, "schedules.w.warmup_steps must be less than"),
        ({"schedules": {}}, "at least 1 item"),
    ],
)
def test_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScheduleCurves.Config.model_validate(numbers(**changed))
