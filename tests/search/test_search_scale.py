"""Where values lie on their scales, and how axes write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlml.config import CategoricalDimension, FloatDimension, IntDimension
from mlml.search._panels import ticks, wrapped
from mlml.search._scale import choice_place, is_log, lattice, share, short_names, tick, value_at, written

LINEAR = FloatDimension(low=-2.0, high=6.0)
LOG = FloatDimension(low=1e-4, high=1e-1, log=True)
STEPS = IntDimension(low=8, high=32, step=8)
LOG_INT = IntDimension(low=1, high=1000, log=True)


def test_shares_are_of_the_dimension_s_own_scale():
    assert [share(LINEAR, value) for value in (-2.0, 0.0, 6.0)] == [0, 0.25, 1]
    assert [share(LOG, value) for value in (1e-4, 1e-3, 1e-2, 1e-1)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert share(STEPS, 16) == pytest.approx(1 / 3)
    assert share(LOG_INT, 10) == pytest.approx(1 / 3)


@pytest.mark.parametrize("dimension", [LINEAR, LOG, STEPS, LOG_INT])
@given(part=st.floats(-0.05, 1.05))
def test_a_value_s_share_leads_back_to_it(dimension: FloatDimension | IntDimension, part: float):
    assert share(dimension, value_at(dimension, part)) == pytest.approx(part, abs=1e-12)


def test_a_lattice_holds_what_a_trial_can_have():
    assert [value_at(STEPS, place) for place in lattice(STEPS, 401)] == pytest.approx([8, 16, 24, 32])
    assert [value_at(LOG_INT, place) for place in lattice(LOG_INT, 1000)] == pytest.approx(range(1, 1001))
    assert lattice(LINEAR, 5) == [0, 0.25, 0.5, 0.75, 1]
    assert len(lattice(LOG_INT, 5)) == 5


def test_choices_that_are_equal_to_python_are_kept_apart():
    dimension = CategoricalDimension(choices=("a", 1, None))
    assert [choice_place(dimension, value) for value in ("a", 1, None)] == [0, 1, 2]
    with pytest.raises(StopIteration):
        choice_place(dimension, True)


def test_short_names_are_two_parts_or_as_many_as_it_takes():
    paths = ["train.optimizer.learning_rate", "encoder.width", "beta", "a.b.c", "d.b.c", "b.c"]
    assert list(short_names(paths).values()) == [
        "optimizer.learning_rate",
        "encoder.width",
        "beta",
        "a.b.c",
        "d.b.c",
        "b.c",
    ]
    assert list(short_names(["temperature", "x.temperature"]).values()) == ["temperature", "x.temperature"]


def test_values_are_written_as_the_declaration_has_them():
    written_as = {
        None: "null",
        True: "true",
        "adamw": "adamw",
        64: "64",
        0.123456: "0.123",
        2863.2: "2860",
        1e-5: "1e-5",
    }
    assert {value: written(value) for value in written_as} == written_as
    assert written(False) == "false"
    assert [tick(value) for value in (3e-4, 1e-3, 0.5, 0.0)] == ["3e-4", "0.001", "0.5", "0"]


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (LOG, [1e-4, 1e-3, 1e-2, 1e-1]),
        (FloatDimension(low=3e-4, high=3e-2, log=True), [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
        (FloatDimension(low=0.1, high=0.5, log=True), [0.1, 0.2, 0.5]),
        (FloatDimension(low=0.11, high=0.12, log=True), [0.11, 0.114, 0.118]),
        (STEPS, [8, 16, 24, 32]),
        (IntDimension(low=1, high=3), [1, 2, 3]),
        (FloatDimension(low=0, high=1), [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_ticks_are_few_and_round(dimension: FloatDimension | IntDimension, expected: list[float]):
    assert ticks(dimension) == pytest.approx(expected)


@given(low=st.floats(1e-9, 1e6), ratio=st.floats(1.001, 1e12), log=st.booleans())
def test_ticks_lie_within_the_range_and_have_room(low: float, ratio: float, log: bool):
    dimension = FloatDimension(low=low, high=low * ratio, log=log)
    found = ticks(dimension)
    assert 2 <= len(found) <= 7
    assert found == sorted(found)
    slack = 1e-6 * (dimension.high - low)
    assert all(low - slack <= value <= dimension.high + slack for value in found)


def test_names_break_where_people_would():
    assert wrapped("optimizer.learning_rate", 15) == "optimizer.\nlearning_rate"
    assert wrapped("encoder.width", 15) == "encoder.width"
    assert wrapped("quite_long_name_of_field", 12) == "quite_long_\nname_of_\nfield"
    assert wrapped("a" * 25, 10) == "\n".join(["a" * 10, "a" * 10, "a" * 5])


@given(st.text("ab_./", max_size=40), st.integers(3, 20))
def test_a_broken_name_is_the_name_in_lines_that_fit(name: str, width: int):
    lines = wrapped(name, width).split("\n")
    assert "".join(lines) == name
    assert all(len(line) <= width for line in lines)


def test_a_loss_that_ran_away_asks_for_a_log_scale():
    assert is_log([0.1, 0.2, 5000.0], "minimize")
    assert not is_log([0.1, 0.2, 0.5], "minimize")
    assert not is_log([0.0, 0.2, 5000.0], "minimize")
    assert not is_log([-0.1, 0.2, 5000.0], "minimize")
    assert not is_log([0.01, 0.9], "maximize")
    assert not is_log([], "minimize")
    assert math.isclose(share(LOG, 1e-2), 2 / 3)
