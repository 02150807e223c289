from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlml.config import ScheduleConfig
from mlml.schedules import SCHEDULES, factor

NAMES = sorted(SCHEDULES)


@st.composite
def runs(draw):
    steps = draw(st.integers(1, 5000))
    warmup = draw(st.integers(0, steps - 1))
    final = draw(st.floats(0, 1))
    name = draw(st.sampled_from(NAMES))
    return ScheduleConfig(name=name, warmup_steps=warmup, final_factor=final), steps


def test_the_table_holds_what_can_be_declared():
    assert set(SCHEDULES) == set(get_args(ScheduleConfig.model_fields["name"].annotation))


@given(runs(), st.data())
def test_factors_stay_in_bounds(run, data):
    config, steps = run
    step = data.draw(st.integers(0, steps))
    value = factor(config, step, steps)
    assert 0 <= value <= 1
    if step >= config.warmup_steps:
        assert value >= config.final_factor
    elif step >= 0:
        assert value > 0


@given(runs())
def test_warm_up_meets_the_curve(run):
    config, steps = run
    warmup = config.warmup_steps
    assert factor(config, warmup, steps) == 1
    if warmup:
        assert factor(config, warmup - 1, steps) == pytest.approx(1 - 1 / (warmup + 1))
    # neither side jumps: the curves' slope over the whole of their progress is at most pi / 2
    assert 1 - factor(config, warmup + 1, steps) <= 1.5708 / (steps - warmup) + 1e-12


@given(runs(), st.data())
def test_factors_rise_in_the_warm_up_and_never_after(run, data):
    config, steps = run
    step = data.draw(st.integers(0, steps - 1))
    now, following = factor(config, step, steps), factor(config, step + 1, steps)
    if step < config.warmup_steps:
        assert following - now == pytest.approx(1 / (config.warmup_steps + 1), abs=1e-12)
    else:
        assert following <= now


@given(runs())
def test_the_end_is_the_declared_one(run):
    config, steps = run
    assert factor(config, steps, steps) == (1 if config.name == "constant" else config.final_factor)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_curves_are_torchs_step_by_step(final):
    steps, warmup, rate = 200, 20, 0.3
    for name in ("cosine", "linear"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        if name == "cosine":
            curve = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=final * rate)
        else:
            curve = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, final, total_iters=steps - warmup)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, curve], [warmup])
        config = ScheduleConfig(name=name, warmup_steps=warmup, final_factor=final)
        for step in range(steps + 1):
            assert rate * factor(config, step, steps) == pytest.approx(both.get_last_lr()[0], abs=1e-9), (name, step)
            optimizer.step()
            both.step()


def test_constant_is_the_full_rate():
    assert {factor(ScheduleConfig(name="constant"), step, 10) for step in range(11)} == {1.0}


@pytest.mark.parametrize("warmup", [10, 11])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup):
    sentence = rf"^schedule.warmup_steps: must be less than the 10 steps of the run; got {warmup}; lower it"
    with pytest.raises(ValueError, match=sentence):
        factor(ScheduleConfig(warmup_steps=warmup), 0, 10)


@pytest.mark.parametrize("step", [-1, 11])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match=rf"must be in \[0, 10\]; got {step}"):
        factor(ScheduleConfig(), step, 10)
