"""Pictures of a search: what they draw is what the records say, whatever the records lack."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from mlml.config import SearchConfig, parse
from mlml.figures import LIGHT
from mlml.search._contour import contour_plot
from mlml.search._figures import front_plot
from mlml.search._outputs import write_outputs
from mlml.search._parallel import NOT_DRAWN, parallel_plot
from mlml.search._slices import slices_plot
from mlml.search._study import Record

SPACE: dict[str, Any] = {
    "train.optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "encoder.width": {"type": "int", "low": 8, "high": 32, "step": 8},
    "train.optimizer.name": {"type": "categorical", "choices": ["adamw", "sgd", None]},
    "train.optimizer.momentum": {"type": "float", "low": 0.5, "high": 0.9, "when": {"train.optimizer.name": "sgd"}},
}
RATE, WIDTH, NAME, MOMENTUM = SPACE


def search(space: dict[str, Any] = SPACE, **more: Any) -> SearchConfig:
    return parse(SearchConfig, {"experiment": "a", "objective": "a", "space": space, **more}, "search.s")


def values_of(rate: float, width: int, name: str | None, momentum: float | None = None) -> dict[str, Any]:
    return {RATE: rate, WIDTH: width, NAME: name, **({} if momentum is None else {MOMENTUM: momentum})}


RECORDS = [
    Record(0, "complete", 0.9, values_of(1e-4, 8, "adamw"), {}, None),
    Record(1, "failed", None, values_of(1e-3, 16, None), {}, "ValueError: x"),
    Record(2, "complete", 0.3, values_of(1e-2, 32, "sgd", 0.7), {}, None),
    Record(3, "pruned", 0.2, values_of(1e-1, 8, "sgd", 0.5), {10: 0.2}, None),
    Record(4, "complete", 0.6, values_of(1e-3, 24, None), {}, None),
]


def many(count: int = 12) -> list[Record]:
    """Trials whose metric falls with the log of the rate and hardly moves with the width."""
    generator = np.random.default_rng(0)
    rates, widths = 10 ** generator.uniform(-4, -1, count), 8 * generator.integers(1, 5, count)
    return [
        Record(
            k, "complete", float(-np.log10(rate) + 0.001 * width), values_of(float(rate), int(width), "adamw"), {}, None
        )
        for k, (rate, width) in enumerate(zip(rates, widths, strict=True))
    ]


def dots(figure: Figure, panel: int) -> list[list[float]]:
    (found,) = [c for c in figure.axes[panel].collections if isinstance(c, PathCollection)]
    return found.get_offsets().tolist()


def line(figure: Figure, label: str, panel: int = 0) -> list[list[float]]:
    (found,) = [line for line in figure.axes[panel].lines if line.get_label() == label]
    return found.get_xydata().tolist()


def test_slices_show_each_trial_at_its_value():
    figure = slices_plot(search(), RECORDS)
    assert dots(figure, 0) == [[1e-4, 0.9], [1e-2, 0.3], [1e-3, 0.6]]
    assert dots(figure, 1) == [[8, 0.9], [32, 0.3], [24, 0.6]]
    assert [axes.get_xscale() for axes in figure.axes[:4]] == ["log", "linear", "linear", "linear"]
    for panel, place in ((0, 1e-2), (1, 32)):
        assert line(figure, "best", panel) == [[place, 0.3]]
    assert line(figure, "pruned (last evaluation)", 0) == [[1e-1, 0.2]]
    assert [x for x, _ in line(figure, "failed", 0)] == [1e-3]


def test_slices_have_a_strip_for_each_choice_null_as_well():
    figure = slices_plot(search(), RECORDS)
    axes = figure.axes[2]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["adamw", "sgd", "null"]
    assert [round(x) for x, _ in dots(figure, 2)] == [0, 1, 2]
    assert all(abs(x - round(x)) <= 0.25 for x, _ in dots(figure, 2))
    assert [round(x) for x, _ in line(figure, "failed", 2)] == [2]


def test_slices_leave_out_who_did_not_draw_a_dimension_and_say_so():
    figure = slices_plot(search(), RECORDS)
    assert dots(figure, 3) == [[0.7, 0.3]]
    assert figure.axes[3].get_xlabel() == "optimizer.momentum\n(drawn in 2 of 5 trials)"
    assert figure.axes[1].get_xlabel() == "encoder.width"
    # the best drew none
    figure = slices_plot(search(), [RECORDS[0]._replace(value=0.1), *RECORDS[1:]])
    assert "best" not in [line.get_label() for line in figure.axes[3].lines]


def test_slices_of_a_metric_to_be_maximised_mark_the_largest():
    figure = slices_plot(search(direction="maximize"), RECORDS)
    assert line(figure, "best") == [[1e-4, 0.9]]


def test_slices_are_coloured_by_the_trial_s_number():
    figure = slices_plot(search(), RECORDS)
    figure.canvas.draw()
    (found,) = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert found.get_array().tolist() == [0, 2, 4]
    lightness = found.get_facecolors()[:, :3].sum(axis=1).tolist()
    assert lightness == sorted(lightness, reverse=True)


def parallel(config: SearchConfig) -> Figure:
    figure = parallel_plot(config, RECORDS)
    assert figure is not None
    return figure


def test_parallel_lines_go_through_each_value_at_its_share():
    figure = parallel(search())
    assert np.allclose(line(figure, "best, trial 2"), [[0, 2 / 3], [1, 1], [2, 0.5], [3, 0.5], [4, 0]])
    wholes = [found.get_ydata() for found in figure.axes[0].lines if len(found.get_ydata()) == 5]
    assert any(np.allclose(heights, [0, 0, 0, NOT_DRAWN, 1]) for heights in wholes)  # trial 0
    assert any(np.allclose(heights, [1 / 3, 2 / 3, 1, NOT_DRAWN, 0.5]) for heights in wholes)  # trial 4
    lost = [found.get_ydata() for found in figure.axes[0].lines if found.get_label() == "pruned or failed"]
    assert np.allclose(lost, [[1 / 3, 1 / 3, 1, NOT_DRAWN], [1, 0, 0.5, 0]])  # they never came to the metric


def test_parallel_lines_are_the_stronger_the_better_in_either_direction():
    for direction, strongest in (("minimize", 0.0), ("maximize", 1.0)):
        figure = parallel(search(direction=direction))
        blue = [found for found in figure.axes[0].lines if len(found.get_ydata()) == 5 and found.get_linewidth() < 2]
        light = {
            round(float(found.get_ydata()[-1]), 6): sum(
                int(to_hex(found.get_color())[k : k + 2], 16) for k in (1, 3, 5)
            )
            for found in blue
        }
        assert min(light, key=lambda height: light[height]) == strongest
        assert light[0.5] not in (min(light.values()), max(light.values()))


def test_a_contour_is_of_the_numeric_dimensions_and_its_dots_are_the_trials():
    records = many()
    figure = contour_plot(search(), records)
    assert figure is not None
    panel, bar = figure.axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("optimizer.learning_rate", "encoder.width")
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "linear")
    assert dots(figure, 0) == [[r.parameters[RATE], r.parameters[WIDTH]] for r in records]
    found = min(records, key=lambda record: record.value)
    assert line(figure, "best") == [[found.parameters[RATE], found.parameters[WIDTH]]]
    assert bar.get_ylabel() == "validation/loss"


def test_the_bands_of_a_contour_lie_where_the_metric_is():
    figure = contour_plot(search(), many(25))  # falls with the rate alone
    assert figure is not None
    (bands,) = [found for found in figure.axes[0].collections if isinstance(found, ContourSet)]
    drawn = [path.vertices for path in bands.get_paths() if len(path.vertices) > 10]  # not a single corner
    lowest, highest = drawn[0], drawn[-1]
    assert lowest[:, 0].min() > 1e-2
    assert highest[:, 0].max() < 1e-3
    assert (lowest[:, 1].min(), lowest[:, 1].max()) == pytest.approx((8, 32))


def test_three_numeric_dimensions_give_three_pairs_and_a_fourth_that_matters_least_none():
    space = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "abcd"}
    generator = np.random.default_rng(1)
    points = generator.random((40, 4))
    records = [
        Record(
            k,
            "complete",
            float(10 * p[3] + 5 * p[2] + 2 * p[0]),
            dict(zip("abcd", map(float, p), strict=True)),
            {},
            None,
        )
        for k, p in enumerate(points)
    ]
    figure = contour_plot(search(space), records)
    assert figure is not None
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes[:-1]] == [("d", "c"), ("d", "a"), ("c", "a")]


def test_a_contour_s_surface_is_the_metric_s():
    from mlml.search._contour import GRID, _surface

    config, records = search(), many(25)
    surface = _surface(config, records, (RATE, WIDTH))
    assert surface is not None
    truth = np.linspace(4, 1, GRID)[:, None] + 0.001 * np.linspace(8, 32, GRID)[None, :]
    assert np.abs(surface - truth).max() < 0.05
    shifted = [record._replace(value=math.exp(3 * (record.value or 0.0))) for record in records]
    log = _surface(config, shifted, (RATE, WIDTH))  # a ratio of e ** 9: fitted as a logarithm
    assert log is not None
    assert np.abs(np.log(log) / 3 - truth).max() < 0.05


@pytest.mark.parametrize(
    ("space", "records"),
    [
        (
            {RATE: SPACE[RATE], NAME: SPACE[NAME]},
            [r._replace(parameters={RATE: r.parameters[RATE], NAME: None}) for r in many()],
        ),
        (SPACE, many(5)),
        (SPACE, [record._replace(value=0.5) for record in many()]),
        (SPACE, [record._replace(parameters={**record.parameters, WIDTH: 8}) for record in many()]),
        (SPACE, [*many(5), *(record._replace(number=5 + record.number, state="pruned") for record in many(5))]),
    ],
    ids=["one numeric dimension", "few trials", "constant metric", "one width", "few complete trials"],
)
def test_where_a_contour_would_say_nothing_there_is_none(space: dict[str, Any], records: list[Record], tmp_path: Path):
    assert contour_plot(search(space), records) is None
    write_outputs(search(space), records, tmp_path)
    assert not (tmp_path / "contour.png").exists()


def front(directions: dict[str, str], rows: list[tuple[float, ...]], direction: str = "minimize") -> Figure | None:
    config = search({RATE: SPACE[RATE]}, direction=direction, further_objectives=directions, pruner="none")
    records = [
        Record(k, "complete", row[0], {RATE: 1e-3}, {}, None, dict(zip(directions, row[1:], strict=True)))
        for k, row in enumerate(rows)
    ]
    return front_plot(config, [*records, Record(len(rows), "failed", None, {RATE: 1e-2}, {}, "x")])


def test_a_front_of_two_objectives_has_its_border():
    rows = [(3.0, 10.0), (1.0, 30.0), (2.0, 20.0), (3.0, 25.0)]
    figure = front({"cost/parameters": "minimize"}, rows)
    assert figure is not None
    (axes,) = figure.axes
    assert line(figure, "Pareto front, with the trials' numbers") == [[1, 30], [2, 20], [3, 10]]
    assert line(figure, "dominated") == [[3, 25]]
    assert line(figure, "best validation/loss") == [[1, 30]]
    (border,) = [found for found in axes.lines if found.get_drawstyle() == "steps-post"]
    assert border.get_xydata().tolist() == [[1, 30], [2, 20], [3, 10]]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "0"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("validation/loss (minimize)", "cost/parameters (minimize)")


def test_the_border_of_a_maximised_metric_falls_before_its_points():
    figure = front({"cost/parameters": "minimize"}, [(0.9, 30.0), (0.5, 10.0), (0.4, 20.0)], "maximize")
    assert figure is not None
    (border,) = [found for found in figure.axes[0].lines if found.get_drawstyle() == "steps-pre"]
    assert border.get_xydata().tolist() == [[0.5, 10], [0.9, 30]]


def test_three_objectives_are_shown_in_pairs_by_the_front_of_all_three():
    directions = {"cost/parameters": "minimize", "validation/accuracy": "maximize"}
    figure = front(directions, [(1.0, 30.0, 0.5), (2.0, 10.0, 0.5), (2.0, 30.0, 0.9), (3.0, 40.0, 0.4)])
    assert figure is not None
    assert len(figure.axes) == 3
    for panel, pair in enumerate([(0, 1), (0, 2), (1, 2)]):
        rows = [(1.0, 30.0, 0.5), (2.0, 10.0, 0.5), (2.0, 30.0, 0.9)]
        assert line(figure, "Pareto front, with the trials' numbers", panel) == [[row[k] for k in pair] for row in rows]


def test_numbers_of_trials_that_would_cover_each_other_are_left_out():
    rows = [(1.0, 3.0), (1.001, 2.999), (3.0, 1.0), (3.0, 1.0)]
    figure = front({"cost/parameters": "minimize"}, rows)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "2"]


def test_one_objective_has_no_front():
    assert front_plot(search(), RECORDS) is None


SPACES = {
    "choices alone": {NAME: SPACE[NAME]},
    "one float": {RATE: SPACE[RATE]},
    "all": SPACE,
    "ten floats": {f"a.quite_long_name_{k}": {"type": "float", "low": 0.0, "high": 1.0} for k in range(10)},
}


@pytest.mark.parametrize("metric", ["constant", "ran away", "tiny", "negative"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("complete", [1, 3, 12])
def test_every_picture_is_written_whatever_the_trials(space: str, metric: str, complete: int, tmp_path: Path):
    config = search(SPACES[space])
    generator = np.random.default_rng(complete)
    records = []
    for k in range(complete + 2):
        drawn: dict[str, Any] = {}
        for path, dimension in config.space.items():
            if dimension.applies(drawn):
                drawn[path] = dimension.at(float(generator.random()))
        value = {"constant": 0.5, "ran away": 0.1 * 10.0 ** (k % 9), "tiny": 1e-12 * (k + 1), "negative": -1.0 - k}[
            metric
        ]
        state = "complete" if k < complete else ("pruned", "failed")[k - complete]
        records.append(Record(k, state, None if state == "failed" else value, drawn, {}, None))
    write_outputs(config, records, tmp_path)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert {"history", "importance", "slices"} <= pictures
    assert ("parallel" in pictures) == (len(config.space) > 1)
    assert ("posterior" in pictures) == (space == "one float" and complete >= 3)
    contour = space in ("all", "ten floats") and complete >= 6 and metric != "constant"
    assert ("contour" in pictures) == contour


def test_the_best_stands_out_in_the_theme_s_second_colour():
    figure = parallel(search())
    (found,) = [line for line in figure.axes[0].lines if line.get_label() == "best, trial 2"]
    assert found.get_color() == LIGHT.series[1]
