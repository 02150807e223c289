from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mlml.config import DeclarationError
from pipelines import overrides

TEXT = """
# what several share
protocol:
  train: &train {steps: 12, optimizer: {name: sgd}}
  probe: &probe {method: linear, train: *train}
pretext:
  first: {train: *train, width: 4}  # the first
  second:
    train: *train
probe:
  one: {<<: *probe, k: 1}
  two: {<<: *probe, k: 2}
"""


def read(text):
    return YAML(typ="safe").load(text)


def test_an_override_changes_the_named_entry_alone():
    """DVC's own --set-param would write into the mapping that all share, or lose the value."""
    before = read(TEXT)
    after = read(overrides.apply(TEXT, {"pretext.first.train.steps": 5, "probe.two.train.optimizer.name": "adam"}))
    assert after["pretext"]["first"]["train"] == {"steps": 5, "optimizer": {"name": "sgd"}}
    assert after["probe"]["two"]["train"] == {"steps": 12, "optimizer": {"name": "adam"}}
    for path in (("protocol",), ("pretext", "second"), ("probe", "one")):
        old, new = before, after
        for key in path:
            old, new = old[key], new[key]
        assert old == new, path
    assert after["probe"]["two"] | {"train": None} == before["probe"]["two"] | {"train": None}


def test_an_override_of_what_is_shared_changes_all_that_share_it():
    after = read(overrides.apply(TEXT, {"protocol.train.steps": 5}))
    users = [after["pretext"]["first"], after["pretext"]["second"], after["probe"]["one"], after["probe"]["two"]]
    assert [user["train"]["steps"] for user in users] == [5] * 4


def test_the_entry_that_defines_what_others_share_can_change_alone():
    text = "a:\n  x: {n: &n {k: 1}}\n  y: {n: *n}\n"
    assert read(overrides.apply(text, {"a.x.n.k": 2})) == {"a": {"x": {"n": {"k": 2}}, "y": {"n": {"k": 1}}}}


def test_a_key_that_has_its_default_can_be_set():
    after = read(overrides.apply(TEXT, {"pretext.second.augment.flip_prob": 0.5}))
    assert after["pretext"]["second"] == {
        "train": {"steps": 12, "optimizer": {"name": "sgd"}},
        "augment": {"flip_prob": 0.5},
    }


def test_comments_stay():
    after = overrides.apply(TEXT, {"pretext.first.width": 8})
    assert "# what several share" in after
    assert "# the first" in after


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("pretext.third.width", "pretext.third.width: there is no 'pretext.third' (known: first, second)"),
        ("pretexts.first.width", "pretexts.first.width: there is no 'pretexts' (known: protocol, pretext, probe)"),
        ("pretext.first.width.x", "pretext.first.width.x: 'pretext.first.width' must be a mapping to hold it; got 4"),
    ],
)
def test_a_path_that_leads_nowhere(path, fault):
    with pytest.raises(DeclarationError) as caught:
        overrides.apply(TEXT, {path: 1})
    assert caught.value.faults == (fault,)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b.c=0.2,0.5", [0.2, 0.5]),
        ("a.b=[1, 2],[3]", [[1, 2], [3]]),
        ("a.b={name: sgd, momentum: 0.9}", [{"name": "sgd", "momentum": 0.9}]),
        ("a.b=adam, true, null", ["adam", True, None]),
    ],
)
def test_values_are_yaml(text, values):
    assert overrides.parse(text)[1] == values


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a=1", "'a=1': must be a dotted path"),
        ("a.b", "'a.b': must be a dotted path"),
        ("a.b=", "'a.b=': has no value"),
        ("a.b=[1", "'a.b=[1': the values are not valid YAML; got '[1'"),
    ],
)
def test_what_is_no_override(text, fault):
    with pytest.raises(overrides.OverrideError) as caught:
        overrides.parse(text)
    assert str(caught.value).startswith(fault)


def test_combinations_are_all_of_them():
    assert overrides.combinations({"a.b": [1, 2], "c.d": ["x", "y"]}) == [
        {"a.b": 1, "c.d": "x"},
        {"a.b": 1, "c.d": "y"},
        {"a.b": 2, "c.d": "x"},
        {"a.b": 2, "c.d": "y"},
    ]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"pretext.simclr.temperature": 0.2}, "simclr-temperature-0.2"),
        ({"pretext.simclr.train.optimizer.name": "lars"}, "simclr-name-lars"),
        ({"pretext.simclr.seeds": [0, 1], "report.title": "a..b/c "}, "simclr-seeds-_0_1_-title-a_b_c"),
    ],
)
def test_names_are_names_of_git_references(given, name):
    assert overrides.name(given) == name


def test_the_overridden_declaration_is_checked():
    text = Path("experiments/quick.yaml").read_text()
    assert overrides.check(text, {"pretext.simclr.temperature": 0.7}).experiments["simclr"].config.temperature == 0.7
    with pytest.raises(DeclarationError) as caught:
        overrides.check(text, {"pretext.simclr.temperatur": 0.7, "probe.simclr_knn.k": 0})
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "pretext.simclr.temperatur",
        "probe.simclr_knn.k",
    ]
