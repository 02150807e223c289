import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.optim import lr_scheduler

from mlml.config import (
    ConstantSchedule,
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
from mlml.schedules import SCHEDULES, Plateau, factor

SCHEDULE = TypeAdapter(ScheduleConfig)
CLASSES = get_args(get_args(ScheduleConfig)[0])
FALLING = (ConstantSchedule, LinearSchedule, PolynomialSchedule, CosineSchedule, ExponentialSchedule, StepSchedule)
RATE = 0.3


@st.composite
def runs(draw, classes=CLASSES):
    steps = draw(st.integers(1, 5000))
    schedule = draw(st.sampled_from(classes))
    numbers = {"warmup_steps": draw(st.integers(0, steps - 1))}
    if "final_factor" in schedule.model_fields:
        numbers["final_factor"] = draw(st.floats(0.001, 1))
    if schedule is StepSchedule:
        places = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True)
        numbers["milestones"] = sorted(draw(places))
    if schedule is CyclicalSchedule:
        numbers |= {"num_cycles": draw(st.integers(1, 9)), "low_factor": draw(st.floats(0, 1))}
    if schedule is OneCycleSchedule:
        numbers |= {"rise_fraction": draw(st.floats(0.01, 0.99)), "initial_factor": draw(st.floats(0, 1))}
    if schedule is PolynomialSchedule:
        numbers["power"] = draw(st.floats(0.1, 5))
    return schedule(**numbers), steps


def test_the_table_holds_what_can_be_declared():
    assert list(SCHEDULES) == [schedule.model_fields["name"].default for schedule in CLASSES]


def test_without_a_name_it_is_a_cosine():
    assert SCHEDULE.validate_python({"final_factor": 0.5}) == CosineSchedule(final_factor=0.5)


@given(runs(), st.data())
def test_factors_stay_in_bounds(run, data):
    config, steps = run
    step = data.draw(st.integers(0, steps))
    assert 0 <= factor(config, step, steps) <= 1 + 1e-12
    if step < config.warmup_steps and factor(config, config.warmup_steps, steps) > 0:
        assert factor(config, step, steps) > 0


@given(runs(), st.data())
def test_the_warm_up_is_a_line_that_meets_the_curve(run, data):
    config, steps = run
    warmup = config.warmup_steps
    begin = factor(config, warmup, steps)
    assert begin == pytest.approx(getattr(config, "initial_factor", getattr(config, "low_factor", 1.0)))
    if warmup:
        step = data.draw(st.integers(0, warmup - 1))
        assert factor(config, step, steps) == pytest.approx(begin * (step + 1) / (warmup + 1))


@given(runs(FALLING), st.data())
def test_curves_fall_and_end_as_declared(run, data):
    config, steps = run
    step = data.draw(st.integers(config.warmup_steps, steps - 1))
    assert factor(config, step + 1, steps) <= factor(config, step, steps) + 1e-12
    if not isinstance(config, ConstantSchedule | StepSchedule):
        assert factor(config, steps, steps) == pytest.approx(config.final_factor)


def test_milestones_are_reached_at_their_steps():
    config = StepSchedule(milestones=(0.25, 0.5), gamma=0.5, warmup_steps=20)
    found = [factor(config, step, 120) for step in (20, 44, 45, 69, 70, 120)]
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25]


def peers(steps, warmup):
    """Ours and torch's, of the same curve over the steps after the warm-up."""
    length = steps - warmup
    cut = [round(length * at) for at in (0.25, 0.6)]
    return {
        "cosine": (
            CosineSchedule(final_factor=0.1, warmup_steps=warmup),
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=length, eta_min=0.1 * RATE),
        ),
        "linear": (
            LinearSchedule(final_factor=0.1, warmup_steps=warmup),
            lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=length),
        ),
        "polynomial": (
            PolynomialSchedule(power=1.7, warmup_steps=warmup),
            lambda o: lr_scheduler.PolynomialLR(o, total_iters=length, power=1.7),
        ),
        "exponential": (
            ExponentialSchedule(final_factor=0.02, warmup_steps=warmup),
            lambda o: lr_scheduler.ExponentialLR(o, gamma=0.02 ** (1 / length)),
        ),
        "step": (
            StepSchedule(milestones=tuple(at / length for at in cut), gamma=0.3, warmup_steps=warmup),
            lambda o: lr_scheduler.MultiStepLR(o, milestones=cut, gamma=0.3),
        ),
        "constant": (ConstantSchedule(warmup_steps=warmup), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    }


@pytest.mark.parametrize("name", peers(200, 20))
def test_curves_are_torchs_step_by_step(name):
    steps, warmup = 200, 20
    config, curve = peers(steps, warmup)[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    later = curve(optimizer)
    warm = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
    both = lr_scheduler.SequentialLR(optimizer, [warm, later], [warmup])
    for step in range(steps + 1):
        assert RATE * factor(config, step, steps) == pytest.approx(both.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        both.step()


@pytest.mark.parametrize("mode", ["triangular", "triangular2"])
def test_cycles_are_torchs_step_by_step(mode):
    steps, cycles = 200, 4
    config = CyclicalSchedule(num_cycles=cycles, low_factor=0.2, mode=mode)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    peer = lr_scheduler.CyclicLR(
        optimizer, 0.2 * RATE, RATE, step_size_up=steps // cycles // 2, mode=mode, cycle_momentum=False
    )
    for step in range(steps):
        assert RATE * factor(config, step, steps) == pytest.approx(peer.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        peer.step()


def test_one_cycle_is_torchs_step_by_step():
    steps = 200
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    # torch's phases are one step shorter: its peak is at pct_start * total_steps - 1, its end at total_steps - 1
    peer = lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=61 / 201, cycle_momentum=False)
    config = OneCycleSchedule(rise_fraction=0.3, initial_factor=1 / 25, final_factor=1 / 25e4)
    for step in range(steps + 1):
        assert RATE * factor(config, step, steps) == pytest.approx(peer.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        if step < steps:
            peer.step()


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-4, 0.1]),
)
def test_the_plateau_is_torchs_evaluation_by_evaluation(losses, patience, cooldown, threshold):
    config = PlateauSchedule(gamma=0.5, patience=patience, cooldown=cooldown, threshold=threshold, min_factor=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, cooldown=cooldown, threshold=threshold, min_lr=0.1, eps=0
    )
    plateau = Plateau()
    for loss in losses:
        plateau = Plateau(*tuple(plateau)).after(config, loss)  # as a checkpoint keeps it
        peer.step(loss)
        assert plateau.factor == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_plateau_is_told_by_losses_below_zero_too():
    config = PlateauSchedule(gamma=0.5, patience=0, threshold=0.1)
    falling, level = Plateau(), Plateau()
    for loss in (-1.0, -1.2, -1.4):
        falling = falling.after(config, loss)
    for loss in (-1.0, -1.05):
        level = level.after(config, loss)
    assert (falling.factor, level.factor) == (1.0, 0.5)


@pytest.mark.parametrize("schedule", [schedule for schedule in CLASSES if schedule is not PlateauSchedule])
def test_other_schedules_learn_nothing_from_losses(schedule):
    plateau = Plateau()
    for _ in range(30):
        plateau = plateau.after(schedule(), 1.0)
    assert plateau == Plateau(1.0, math.inf, 0, 0)


@pytest.mark.parametrize("warmup", [10, 11])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup):
    sentence = rf"^schedule.warmup_steps: must be less than the 10 steps of the run; got {warmup}; lower it"
    with pytest.raises(ValueError, match=sentence):
        factor(CosineSchedule(warmup_steps=warmup), 0, 10)


@pytest.mark.parametrize("step", [-1, 11])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match=rf"must be in \[0, 10\]; got {step}"):
        factor(CosineSchedule(), step, 10)


@pytest.mark.parametrize("milestones", [(), (0.5, 0.5), (0.6, 0.5), (0.0,), (1.0,)])
def test_milestones_must_increase_within_the_run(milestones):
    with pytest.raises(ValidationError):
        StepSchedule(milestones=milestones)
