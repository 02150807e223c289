import json
import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mlml.statistics import summarise


def test_closed_form_of_two_and_three_seeds():
    # t(0.975, 1) = tan(0.475 pi); t(0.975, 2) = 0.95 sqrt(2 / (1 - 0.95^2))
    assert summarise({0: 0.0, 1: 2.0})["interval95"] == pytest.approx(math.tan(0.475 * math.pi), rel=1e-11)
    three = summarise({0: 1.0, 1: 2.0, 2: 3.0})
    assert three["mean"] == 2.0
    assert three["interval95"] == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3), rel=1e-11)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_interval_is_scipys(values):
    summary = summarise(dict(enumerate(values)))
    assert summary["mean"] == pytest.approx(math.fsum(values) / len(values), rel=1e-12)
    error = scipy.stats.sem(values)
    if error > 1e-9 * max(map(abs, values)):
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=0, scale=error)
        assert summary["interval95"] == pytest.approx((high - low) / 2, rel=1e-6)


def test_single_seed_has_no_interval():
    assert summarise({3: 0.5}) == {"mean": 0.5, "interval95": None, "seed_3": 0.5}


def test_equal_values_have_an_interval_of_zero():
    assert summarise({0: 0.1, 1: 0.1, 2: 0.1})["interval95"] == 0.0


def test_order_of_seeds_does_not_change_a_byte():
    values = {0: 0.1, 1: 0.2, 2: 0.3, 10: 1e16, 11: -1e16}
    backwards = dict(reversed(values.items()))
    assert json.dumps(summarise(values)) == json.dumps(summarise(backwards))
    assert list(summarise(backwards)) == ["mean", "interval95", "seed_0", "seed_1", "seed_2", "seed_10", "seed_11"]
    assert summarise(values)["mean"] == pytest.approx(0.6 / 5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="seed 1: a metric must be finite"):
        summarise({0: 0.5, 1: value})


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        summarise({})
