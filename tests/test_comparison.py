"""Comparisons: their statistics against SciPy's, their words against the numbers, and their place on the page."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from scipy import stats
from test_report import make_results, render

from mlml import comparison, figures
from mlml.config import ComparisonConfig
from mlml.statistics import Difference, difference, summarise

values = st.floats(-100, 100).map(lambda value: round(value, 3))
samples = st.lists(values, min_size=2, max_size=8).filter(lambda sample: len(set(sample)) > 1)


@given(samples, st.randoms())
def test_the_same_seeds_are_paired(first, random):
    second = [value + random.uniform(-3, 3) for value in first]
    assume(np.std(np.subtract(first, second)) > 1e-3)  # below, rounding is all that SciPy sees
    found = difference(dict(enumerate(first)), dict(enumerate(second)))
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.paired
    assert found.mean - found.interval95 == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
    assert found.mean + found.interval95 == pytest.approx(interval.high, rel=1e-6, abs=1e-6)


@given(samples, samples)
def test_other_seeds_are_welch_s(first, second):
    found = difference(dict(enumerate(first)), dict(enumerate(second, 100)))
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert not found.paired
    assert found.mean - found.interval95 == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
    assert found.mean + found.interval95 == pytest.approx(interval.high, rel=1e-6, abs=1e-6)


def test_a_single_seed_has_no_interval():
    assert difference({0: 0.5}, {1: 0.25, 2: 0.35}) == Difference(pytest.approx(0.2), None, False)
    assert difference({0: 0.5}, {0: 0.25}) == Difference(0.25, None, True)


def test_what_does_not_vary_has_an_interval_of_0():
    assert difference({0: 1.0, 1: 1.0}, {2: 0.5, 3: 0.5}) == Difference(0.5, 0.0, False)


def curves(accuracies, rate=None, seeds=(0, 1, 2)):
    """Evaluations every 10 steps; the seeds differ a little."""
    rows = [
        {"step": 10 * k, "seed": seed, "validation/loss": 1 - value, "validation/accuracy": value + 0.001 * seed}
        | ({} if rate is None else {"train/learning_rate": rate(10 * k)})
        for seed in seeds
        for k, value in enumerate(accuracies, 1)
    ]
    return pd.DataFrame(rows)


def member(name, scores, frame=None, dataset="digits"):
    frame = pd.DataFrame() if frame is None else frame
    return comparison.Member(name, dataset, summarise(dict(enumerate(scores))), frame)


ACCURACY = ComparisonConfig(title="t", of=("relu", "sigmoid", "tanh"))
RELU = member("relu", [0.970, 0.972, 0.974], curves([0.5, 0.9, 0.98]))
SIGMOID = member("sigmoid", [0.101, 0.104, 0.104], curves([0.1, 0.1, 0.1]))
TANH = member("tanh", [0.966, 0.973, 0.970], curves([0.2, 0.4, 0.95]))


def test_the_words_are_those_of_the_numbers():
    found = comparison.compare(ACCURACY, [SIGMOID, TANH, RELU])
    assert [standing.member.name for standing in found.standings] == ["relu", "tanh", "sigmoid"]
    gap = stats.ttest_rel([0.101, 0.104, 0.104], [0.970, 0.972, 0.974]).confidence_interval(0.95)
    assert found.sentences == (
        "relu is best: test/accuracy 97.2 ± 0.5 % (mean of 3 seeds).",
        "Not to be told apart from it with 3 seeds: tanh (97.0 ± 0.9 %).",
        f"sigmoid reached 10.3 ± 0.4 %: 86.9 points less [−{-100 * gap.low:.1f}, −{-100 * gap.high:.1f}], "
        "far outside of what seeds explain.",
        "First at 88.3 % on validation was relu after 20 steps, last tanh after 30 steps.",
        "Not every seed came to 88.3 % on validation: sigmoid.",
    )
    assert found.target == pytest.approx(0.9 * 0.981)


def test_nobody_is_first_where_a_seed_of_each_fell_short():
    frame = curves([0.5, 0.5])
    frame.loc[frame["seed"] == 0, "validation/accuracy"] = 0.1
    pair = [member("a", [0.5, 0.6, 0.1], frame), member("b", [0.5, 0.5, 0.1])]
    sentences = comparison.compare(ACCURACY, pair).sentences
    assert sentences[-1] == "Not every seed came to 33.1 % on validation: a."
    assert not any("First" in sentence for sentence in sentences)


def test_losses_are_better_when_less():
    config = ComparisonConfig(title="t", metric="validation/loss", of=("a", "b"))
    found = comparison.compare(config, [member("a", [2.0, 2.1]), member("b", [1.0, 1.1])])
    assert [standing.member.name for standing in found.standings] == ["b", "a"]
    assert found.sentences[1].startswith("a reached 2.05 ± 0.64: 1 more [1, 1], far outside")
    assert found.target is None


def test_other_data_is_not_paired():
    pair = [member("a", [0.9, 0.8]), member("b", [0.7, 0.6], dataset="photos")]
    assert comparison.compare(ACCURACY, pair).standings[1].gap == difference(
        {0: 0.7, 1: 0.6}, {0: 0.9, 1: 0.8}, pair=False
    )
    assert not comparison.compare(ACCURACY, pair).standings[1].gap.paired


@pytest.mark.parametrize(
    ("mean", "interval", "words"),
    [
        (-0.1, None, "a single seed tells nothing of chance"),
        (-0.1, 0.1, "cannot be told apart"),
        (0.0, 0.0, "cannot be told apart"),
        (-0.1, 0.05, "more than seeds explain"),
        (0.1, 0.03, "far outside of what seeds explain"),
    ],
)
def test_verdicts(mean, interval, words):
    assert comparison.verdict(Difference(mean, interval, True)) == words


@pytest.mark.parametrize(
    ("mean", "points", "raw"), [(-0.0004, "0.0", "−0.0004"), (0.125, "+12.5", "+0.125"), (-0.5, "−50.0", "−0.5")]
)
def test_a_gap_has_a_sign_unless_it_is_none(mean, points, raw):
    gap = Difference(mean, 0.1, True)
    assert comparison.gap_text("test/accuracy", gap) == points
    assert comparison.gap_text("test/loss", gap) == raw


def test_an_experiment_without_the_metric_is_named():
    with pytest.raises(ValueError, match=r"'vae' has no metric 'test/accuracy' \(known: test/kl, test/loss\)"):
        comparison.summary_of(ACCURACY, "vae", {"test/loss": {}, "test/kl": {}})


def test_the_figure_holds_each_member_s_mean_between_its_seeds():
    figure = comparison.plot(ACCURACY, [RELU, SIGMOID, TANH], figures.LIGHT)
    loss, accuracy = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss on validation", "accuracy on validation"]
    assert loss.get_yscale() == "log"  # 0.02 to 0.9
    line = accuracy.lines[2]
    np.testing.assert_allclose(line.get_xydata(), [(10, 0.201), (20, 0.401), (30, 0.951)])
    assert to_hex(line.get_color()) == figures.LIGHT.series[2]
    band = accuracy.collections[2].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.2, 0.952)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["relu", "sigmoid", "tanh"]


def test_learning_rates_are_drawn_where_they_differ():
    config = ComparisonConfig(title="t", of=("a", "b"))
    one, other = curves([0.5, 0.9], lambda step: 0.1), curves([0.5, 0.8], lambda step: 1 / step)
    differing = [member("a", [0.9, 0.8], one), member("b", [0.7, 0.8], other)]
    panels = comparison.plot(config, differing).axes
    assert [axes.get_title(loc="left") for axes in panels][-1] == "learning rate"
    np.testing.assert_allclose(panels[-1].lines[1].get_xydata(), [(10, 0.1), (20, 0.05)])
    alike = [replace(differing[0], name="a"), replace(differing[0], name="b")]
    assert len(comparison.plot(config, alike).axes) == 2
    early = replace(differing[1], name="a", curves=other[other["step"] == 10])
    assert len(comparison.plot(config, [early, replace(differing[1], name="b")]).axes) == 2
    flat = curves([0.5, 0.9], lambda step: 0.2)
    constant = [differing[0], member("b", [0.7, 0.8], flat)]
    assert len(comparison.plot(config, constant).axes) == 2


def test_twelve_members_can_be_told_apart():
    names = tuple(f"m{k}" for k in range(12))
    config = ComparisonConfig(title="t", of=names)
    figure = comparison.plot(config, [member(name, [0.5, 0.6], curves([0.5, 0.6])) for name in names])
    looks = {(line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].lines}
    assert len(looks) == 12


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("compared"))


def test_the_page_shows_each_comparison_with_its_way_back(results, tmp_path):
    of = ("simclr_linear", "rotation_linear", "random_linear")
    config = ComparisonConfig(title="Which pretext?", question="Does a pretext help?", of=of)
    html, page = render(results, tmp_path, comparisons=[config])
    rows = page.table("compared")
    by_name = {result.name: result for result in results}
    assert [row[0]["text"] for row in rows[1:]] == list(of)  # which is their order, too
    for row in rows[1:]:
        result = by_name[row[0]["text"]]
        score = result.metrics["test/accuracy"]
        assert row[1]["text"].strip() == f"{100 * score['mean']:.1f} ± {100 * score['interval95']:.1f}"
        assert row[1]["hrefs"] == [result.run.url]
        assert result.run.key in row[1]["titles"][0]
    gap = difference(*({s: by_name[n].metrics["test/accuracy"][f"seed_{s}"] for s in range(3)} for n in (of[2], of[0])))
    assert rows[3][3]["text"] == f"{100 * gap.mean:+.1f}".replace("-", "−")
    assert "simclr_linear is best: test/accuracy" in page.text
    assert "Does a pretext help?" in page.text
    assert '<a href="#comparisons">' in html


def test_the_page_draws_curves_for_light_and_dark(results, tmp_path):
    config = ComparisonConfig(title="t", metric="validation/loss", of=("simclr", "rotation"))
    without = render(results, tmp_path / "without")[1].loads
    with_plot = render(results, tmp_path / "with", comparisons=[config])[1].loads
    drawn = [address for address in with_plot if address not in without]
    assert len(drawn) == 2
    assert all(address.startswith("data:image/svg+xml") for address in drawn)


def test_the_leaderboard_asks_for_probes_only_where_nothing_else_is_compared(results, tmp_path):
    without = [result for result in results if result.family != "probe"]
    config = ComparisonConfig(title="t", metric="validation/loss", of=("simclr", "rotation"))
    assert "No probe is declared" in render(without, tmp_path / "alone")[0]
    html, page = render(without, tmp_path / "compared", comparisons=[config])
    assert "No probe is declared" not in html
    assert "#leaderboard" not in page.hrefs
    assert "Leaderboard" in render(results, tmp_path / "both", comparisons=[config])[1].text


def test_a_page_without_comparisons_has_no_section(results, tmp_path):
    html, _ = render(results, tmp_path)
    assert "comparisons" not in html
