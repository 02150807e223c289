"""What a search leaves for people: files that say what the records say, with the same bytes each time."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from ruamel.yaml import YAML

from mlml.config import SearchConfig, parse
from mlml.search._convergence import sentences
from mlml.search._figures import history_plot, importance_plot
from mlml.search._importance import importances
from mlml.search._outputs import write_outputs
from mlml.search._study import Record

DECLARED = {
    "experiment": "simclr",
    "objective": "simclr",
    "metric": "validation/accuracy",
    "direction": "maximize",
    "space": {
        "train.optimizer.learning_rate": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
        "encoder.width": {"type": "int", "low": 8, "high": 32, "step": 8},
        "train.optimizer.name": {"type": "categorical", "choices": ["adamw", None]},
    },
}
CONFIG = parse(SearchConfig, DECLARED, "search.s")
PATHS = tuple(CONFIG.space)


def record(number: int, state: str, value: float | None, *parameters: object, **rest: object) -> Record:
    evaluations = dict.fromkeys(range(number), 0.5)
    return Record(number, state, value, dict(zip(PATHS, parameters, strict=True)), evaluations, rest.get("failure"))


RECORDS = [
    record(0, "complete", 0.1 + 0.2, 1e-5, 8, "adamw"),
    record(1, "failed", None, 1 / 3, 16, "adamw", failure="ValueError: loss is nan, at step 3"),
    record(2, "complete", 0.75, 1.2345678901234567e-05, 24, None),
    record(3, "pruned", 0.9, 1e-2, 32, "adamw"),
    record(4, "complete", 0.5, 1e-3, 8, None),
]


def test_best_yaml_is_an_entry_in_small_and_exact_in_every_reader(tmp_path: Path):
    write_outputs(CONFIG, RECORDS, tmp_path)
    expected = {
        "experiment": "simclr",
        "objective": "simclr",
        "metric": "validation/accuracy",
        "direction": "maximize",
        "value": 0.75,
        "trial": 2,
        "overrides": {
            "train": {"optimizer": {"learning_rate": 1.2345678901234567e-05, "name": None}},
            "encoder": {"width": 24},
        },
    }
    assert YAML(typ="safe").load(tmp_path / "best.yaml") == expected
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == expected


def test_trials_csv_has_a_row_for_every_trial(tmp_path: Path):
    write_outputs(CONFIG, RECORDS, tmp_path)
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["number", "state", "value", *PATHS, "evaluations", "failure"]
    assert rows[1] == ["0", "complete", "0.30000000000000004", "1e-05", "8", "adamw", "0", ""]
    assert rows[2] == ["1", "failed", "", repr(1 / 3), "16", "adamw", "1", "ValueError: loss is nan, at step 3"]
    assert [row[1] for row in rows[1:]] == ["complete", "failed", "complete", "pruned", "complete"]
    assert [float(row[3]) for row in rows[1:]] == [record.parameters[PATHS[0]] for record in RECORDS]


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write_outputs(CONFIG, RECORDS, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    always = [
        "best.yaml",
        "history.png",
        "importance.png",
        "parallel.png",
        "sentences.json",
        "slices.png",
        "trials.csv",
    ]
    assert files == always  # three complete trials are too few for a contour
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_a_process_is_fitted_to_gives_the_same_bytes_whatever_was_drawn_before(tmp_path: Path):
    config = parse(SearchConfig, {**DECLARED, "space": {"temperature": {"type": "float", "low": 0, "high": 1}}}, "s")
    records = [Record(k, "complete", (k / 11 - 0.4) ** 2, {"temperature": k / 11}, {}, None) for k in range(12)]
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        write_outputs(config, records, tmp_path / name)
        assert torch.initial_seed() == seed
    assert (tmp_path / "a/posterior.png").read_bytes() == (tmp_path / "b/posterior.png").read_bytes()


def test_importances_which_take_long_are_computed_once(tmp_path: Path, monkeypatch):
    """For their own picture, and for the choice of what the contours show."""
    calls, compute = [], optuna.importance.get_param_importances
    monkeypatch.setattr(
        optuna.importance, "get_param_importances", lambda *args, **named: calls.append(1) or compute(*args, **named)
    )
    drawn = np.random.default_rng(0).uniform(size=(10, 2))
    space = {path: {"type": "float", "low": 0, "high": 1} for path in "ab"}
    config = parse(SearchConfig, {**DECLARED, "space": space}, "search.s")
    records = [
        Record(k, "complete", float(a + b / 3), {"a": float(a), "b": float(b)}, {}, None)
        for k, (a, b) in enumerate(drawn)
    ]
    write_outputs(config, records, tmp_path)
    assert (tmp_path / "contour.png").exists()
    assert (tmp_path / "importance.png").exists()
    assert len(calls) == 1


def test_several_objectives_add_their_columns_and_their_front(tmp_path: Path):
    more = {"further_objectives": {"cost/parameters": "minimize"}, "pruner": "none"}
    config = parse(SearchConfig, {**DECLARED, **more}, "search.s")
    costs = [90.0, None, 80.0, 70.0, 10.0]
    records = [
        record._replace(further={} if cost is None else {"cost/parameters": cost})
        for record, cost in zip(RECORDS, costs, strict=True)
    ]
    write_outputs(config, records, tmp_path)
    found = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert (found["trial"], found["value"]) == (2, 0.75)
    assert found["front"] == [
        {"trial": 2, "values": {"validation/accuracy": 0.75, "cost/parameters": 80.0}, "overrides": found["overrides"]},
        {
            "trial": 4,
            "values": {"validation/accuracy": 0.5, "cost/parameters": 10.0},
            "overrides": {"train": {"optimizer": {"learning_rate": 1e-3, "name": None}}, "encoder": {"width": 8}},
        },
    ]
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cost/parameters"] for row in rows] == ["90.0", "", "80.0", "70.0", "10.0"]
    assert "continues" not in rows[0]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_trials_that_go_on_with_others_name_them(tmp_path: Path):
    config = parse(SearchConfig, {**DECLARED, "pruner": "asha", "pruner_min_steps": 10}, "search.s")
    write_outputs(config, [*RECORDS[:4], RECORDS[4]._replace(continues=3)], tmp_path)
    with (tmp_path / "trials.csv").open(newline="") as file:
        assert [row["continues"] for row in csv.DictReader(file)] == ["", "", "", "", "3"]


def test_the_sentences_are_returned_and_written(tmp_path: Path):
    said = write_outputs(CONFIG, RECORDS, tmp_path)
    assert said == sentences(CONFIG, RECORDS)
    assert json.loads((tmp_path / "sentences.json").read_text()) == said
    assert len(said) > 0


def test_history_shows_each_trial_and_the_best_so_far():
    lines = {line.get_label(): line for line in history_plot(CONFIG, RECORDS).axes[0].lines}
    assert list(lines["best so far"].get_xydata().tolist()) == [[0, 0.1 + 0.2], [2, 0.75], [4, 0.75], [4, 0.75]]
    assert lines["complete"].get_xydata().tolist() == [[0, 0.1 + 0.2], [2, 0.75], [4, 0.5]]
    assert lines["pruned (last evaluation)"].get_xydata().tolist() == [[3, 0.9]]
    assert lines["failed"].get_xdata().tolist() == [1]


def test_the_value_that_matters_is_the_important_one_on_its_own_scale():
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-6, -1, 60)
    widths = rng.choice([8, 16, 24, 32], 60)

    def records(values: np.ndarray) -> list[Record]:
        points = zip(rates, widths, values, strict=True)
        return [
            record(number, "complete", float(value), float(rate), int(width), ["adamw", None][number % 2])
            for number, (rate, width, value) in enumerate(points)
        ]

    by_rate = importances(CONFIG, records(np.log10(rates)))
    assert next(iter(by_rate)) == PATHS[0]
    assert by_rate[PATHS[0]] > 0.95
    assert math.isclose(sum(by_rate.values()), 1)
    by_width = importances(CONFIG, records(widths / 8.0))
    assert by_width[PATHS[1]] > 0.95
    # equal halves on the log scale; the rate's half lies in the lowest thousandth of a linear scale
    both = importances(CONFIG, records(np.where(rates < 10**-3.5, 1.0, 0.0) + np.where(widths < 20, 1.0, 0.0)))
    assert 0.35 < both[PATHS[0]] < 0.65
    assert importances(CONFIG, records(np.log10(rates))) == by_rate


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (RECORDS[:2], "needs two complete trials; got 1"),
        (
            [RECORDS[0], RECORDS[2]._replace(value=RECORDS[0].value)],
            "needs trials of different values; got 2 complete ones",
        ),
    ],
)
def test_without_importances_the_picture_says_why(records: list[Record], reason: str, tmp_path: Path):
    with pytest.raises(ValueError, match=reason):
        importances(CONFIG, records)
    figure = importance_plot(CONFIG, records)
    assert [text.get_text() for text in figure.axes[0].texts] == [f"no importances: {reason}"]
    write_outputs(CONFIG, records, tmp_path)
    assert (tmp_path / "importance.png").read_bytes().startswith(b"\x89PNG")


def test_importance_bars_are_the_importances():
    axes = importance_plot(CONFIG, RECORDS).axes[0]
    shares = importances(CONFIG, RECORDS)
    assert [patch.get_width() for patch in axes.patches] == list(shares.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == list(shares)


def test_no_complete_trial_leaves_nothing_to_write(tmp_path: Path):
    with pytest.raises(ValueError):
        write_outputs(CONFIG, [RECORDS[1]], tmp_path)
