"""Each verdict on a network made to have the illness, none on healthy ones, and on series made by hand."""

import json
import math

import pytest
import torch
from blobs import write_prepared

from mlml import catalogue, diagnostics, diagnostics_file, model_folder, points
from mlml.data.batches import Batches
from mlml.declaration import resolve
from mlml.diagnostics import Record, bias_variance, diagnose
from mlml.method import Output
from mlml.points import Points
from mlml.seeds import seed_everything
from mlml.train import NonFiniteLossError, fit

DEEP = [32] * 8
PRETEXTS = catalogue.names("pretext")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("data") / "blobs")


def train(data, folder, encoder, rate=0.003, optimizer="adamw", loss="cross_entropy", seed=0, **numbers):
    """What a classifier of four easy classes records in a hundred steps."""
    numbers = {"steps": 100, "batch_size": 32, "log_every": 5, "diagnose_every": 10, "evaluate_every": 25, **numbers}
    entry = {
        "method": "classifier",
        "dataset": "blobs",
        "encoder": {"network": "mlp", "norm": "none", "hidden_widths": [32, 32], **encoder},
        "augment": {"padding": 0, "flip_prob": 0.0},
        "loss": loss,
        "train": {**numbers, "optimizer": {"name": optimizer, "learning_rate": rate}},
    }
    experiment = resolve("supervised", "classifier", entry)
    seed_everything(seed, "init")
    method = model_folder.build("supervised", "classifier", experiment.config, data.spec)
    splits = [data.split(name) for name in ("train", "validation")]
    batches = [Batches(split.images, split.labels, 32, seed, torch.device("cpu")) for split in splits]
    fit(method, *batches, method.config.train, seed, folder)
    return diagnostics.read(folder / "points.jsonl")


def kinds(record):
    return [verdict.kind for verdict in diagnose(record)]


HEALTHY = {
    "batch norm": ({"norm": "batch"}, {}),
    "he": ({"initialiser": "he_normal", "hidden_widths": DEEP}, {"optimizer": "sgd", "rate": 0.02}),
    "tanh": ({"initialiser": "xavier_normal", "activation": "tanh"}, {}),
    "shallow sigmoid": (
        {"activation": "sigmoid", "initialiser": "xavier_normal", "hidden_widths": [32]},
        {"rate": 0.005},
    ),
    "gelu": ({"activation": "gelu"}, {}),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_network_has_no_illness(data, tmp_path, name, seed):
    encoder, numbers = HEALTHY[name]
    record = train(data, tmp_path, encoder, seed=seed, **numbers)
    assert record.curves["validation/accuracy"][-1][1] > 0.9
    assert record.layers
    assert diagnose(record) == []


@pytest.mark.parametrize(
    ("network", "numbers"), [("cnn", {"width": 8, "num_stages": 3}), ("rnn", {"hidden_dim": 32}), ("vit", {"dim": 24})]
)
def test_other_healthy_networks_have_no_illness_of_layers_or_loss(data, tmp_path, network, numbers):
    plain = {"network": network, **numbers}
    entry = {"method": "classifier", "dataset": "blobs", "encoder": plain, "augment": {"padding": 0, "flip_prob": 0.0}}
    numbers = {"steps": 60, "batch_size": 32, "log_every": 5, "diagnose_every": 10, "evaluate_every": 30}
    experiment = resolve("supervised", "c", {**entry, "train": numbers})
    seed_everything(0, "init")
    method = model_folder.build("supervised", "classifier", experiment.config, data.spec)
    splits = [data.split(name) for name in ("train", "validation")]
    batches = [Batches(split.images, split.labels, 32, 0, torch.device("cpu")) for split in splits]
    fit(method, *batches, method.config.train, 0, tmp_path)
    record = diagnostics.read(tmp_path / "points.jsonl")
    assert [*diagnostics.of_layers(record), *diagnostics.of_loss(record)] == []


def worst(record, kind):
    return next(verdict for verdict in diagnose(record) if verdict.kind == kind)


def test_a_deep_sigmoid_network_by_naive_weights_has_vanishing_gradients(data, tmp_path):
    naive = {"activation": "sigmoid", "hidden_widths": DEEP, "initialiser": {"name": "normal", "std": 0.01}}
    verdict = worst(train(data, tmp_path / "deep", naive), "vanishing gradients")
    assert verdict.layer == "encoder.layers.0"
    assert verdict.value < 1e-6
    assert "the gradient norm of encoder.layers.0 is" in verdict.sentence
    assert "He initialisation" in verdict.sentence
    assert "residual connections" in verdict.sentence
    cured = {"activation": "relu", "hidden_widths": DEEP, "initialiser": "he_normal"}
    assert "vanishing gradients" not in kinds(train(data, tmp_path / "cured", cured))


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("initialiser", ["zero", {"name": "constant", "value": 0.05}])
def test_constant_weights_stay_symmetric(data, tmp_path, activation, initialiser):
    record = train(data, tmp_path, {"activation": activation, "initialiser": initialiser})
    verdict = worst(record, "symmetry")
    assert verdict.layer == "encoder.layers.0"
    assert verdict.value == 1
    assert "100 % of the units of encoder.layers.0" in verdict.sentence
    assert diagnose(record)[0] == verdict  # the cause of all others


def test_a_head_that_begins_at_zero_is_no_symmetry(data, tmp_path):
    """Its units get different gradients: they are told apart by the labels."""
    record = train(data, tmp_path, {"initialiser": {"name": "constant", "value": 0.05}})
    assert record.layers["head"]["symmetric"][0][1] == 1
    assert record.layers["head"]["symmetric"][-1][1] == 0
    assert "head" not in worst(record, "symmetry").sentence


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_too_high_a_learning_rate_lets_the_loss_diverge(data, tmp_path, loss):
    try:
        record = train(data, tmp_path, {}, rate=30.0, optimizer="sgd", loss=loss)
    except NonFiniteLossError as error:
        said = str(error)
    else:
        said = diagnose(record)[0].sentence
    assert "the loss diverges: it began at" in said or "the loss exploded on its way: it began at" in said
    assert "lower train.optimizer.learning_rate" in said


def test_a_run_that_ended_says_why(data, tmp_path):
    huge = {"hidden_widths": DEEP, "initialiser": {"name": "normal", "std": 1.0}}
    with pytest.raises(NonFiniteLossError) as raised:
        train(data, tmp_path, huge, rate=1e-4, optimizer="sgd")
    said = str(raised.value)
    assert "the last good checkpoint" in said
    assert "; diagnosis: the loss diverges: it began at" in said
    assert "; updates are too large: a step changes the weights of " in said


def test_dying_relus(data, tmp_path):
    """A few far steps, and no input comes above 0 any more."""
    record = train(data, tmp_path, {"hidden_widths": [32, 32, 32]}, rate=1.0)
    verdict = worst(record, "dead units")
    assert verdict.value > 0.5
    assert verdict.layer.startswith("encoder.layers.")
    assert "leaky_relu" in verdict.sentence


@pytest.mark.parametrize(("activation", "std"), [("sigmoid", 5.0), ("tanh", 1.0)])
def test_large_weights_saturate(data, tmp_path, activation, std):
    wide = {"activation": activation, "hidden_widths": [64] * 4, "initialiser": {"name": "normal", "std": std}}
    verdict = worst(train(data, tmp_path, wide), "saturation")
    assert verdict.value > 0.5
    assert "within 1 % of their bounds" in verdict.sentence


def test_updates_of_a_learning_rate_a_million_times_too_small(data, tmp_path):
    record = train(data, tmp_path, {"norm": "batch"}, rate=1e-9)
    assert kinds(record) == ["small updates"]
    assert "raise train.optimizer.learning_rate" in diagnose(record)[0].sentence


def test_updates_of_a_learning_rate_a_hundred_times_too_large(data, tmp_path):
    verdict = worst(train(data, tmp_path, {"norm": "batch", "hidden_widths": [32] * 3}, rate=1.0), "large updates")
    assert verdict.value > 2
    assert "lower train.optimizer.learning_rate" in verdict.sentence


def test_updates_that_are_usually_too_large():
    values = layers(
        net_0__update_ratio=[0.05, 0.2, 0.15], net_1__update_ratio=[0.12] * 3, net_2__update_ratio=[1.5, 0, 0]
    )
    verdict = diagnostics.large_updates(values)
    assert (verdict.layer, verdict.value) == ("net.0", 0.15)
    assert "by 15 % of their norm (and 1 more layer)" in verdict.sentence
    verdict = diagnostics.large_updates(layers(net_0__update_ratio=[3.0, 1e-3, 1e-3]))
    assert verdict.value == 3.0
    assert "a step changed the weights of net.0 by 300 % of their norm" in verdict.sentence


def test_labels_that_mean_nothing_are_learnt_by_heart(tmp_path):
    """High variance for certain: nothing that is learnt of random labels holds for others."""
    data = write_prepared(tmp_path / "blobs")
    split = data.split("train")
    generator = torch.Generator().manual_seed(0)
    entry = {"method": "classifier", "dataset": "blobs", "encoder": {"network": "mlp"}}
    numbers = {"steps": 80, "batch_size": 32, "log_every": 5, "diagnose_every": 10, "evaluate_every": 20}
    config = {**entry, "augment": {"padding": 0, "flip_prob": 0.0}, "train": numbers}
    seed_everything(0, "init")
    method = model_folder.build("supervised", "classifier", resolve("supervised", "c", config).config, data.spec)
    labels = [torch.randint(4, (n,), generator=generator).numpy() for n in (96, 24)]
    images = [split.images, data.split("validation").images]
    batches = [Batches(i, label, 32, 0, torch.device("cpu")) for i, label in zip(images, labels, strict=True)]
    fit(method, *batches, method.config.train, 0, tmp_path / "run")
    assert kinds(diagnostics.read(tmp_path / "run/points.jsonl")) == ["high variance"]


# on series made by hand


def curve(*values, every=10):
    return [(every * (n + 1), value) for n, value in enumerate(values)]


def layers(**measures):
    """One series by layer and measure; `a__dead=[...]` is the measure `dead` of the layer `a`."""
    found = {}
    for key, values in measures.items():
        layer, measure = key.split("__")
        found.setdefault(layer.replace("_", "."), {})[measure] = curve(*values)
    return found


def test_layers_compare_within_their_network_only():
    apart = layers(generator_0__gradient_norm=[1e-9] * 3, generator_1__gradient_norm=[1e-8] * 3)
    apart |= layers(critic_0__gradient_norm=[1.0] * 3)
    assert diagnostics.vanishing(apart) is None
    together = layers(net_0__gradient_norm=[1e-9] * 3, net_1__gradient_norm=[1e-8] * 3, net_2__gradient_norm=[1.0] * 3)
    verdict = diagnostics.vanishing(together)
    assert (verdict.layer, verdict.value) == ("net.0", pytest.approx(1e-9))
    assert "1e-09 of that of net.2" in verdict.sentence


def test_a_gradient_of_nothing_is_told_once():
    """Where units are dead or copies, no gradient comes through: it does not vanish on its way."""
    none = layers(net_0__gradient_norm=[0.0] * 3, net_1__gradient_norm=[1.0] * 3)
    assert diagnostics.vanishing(none).sentence.startswith(
        "gradients vanish: the gradient norm of net.0 is 0, and that of net.1 is not; see"
    )
    assert kinds(Record(none, {})) == ["vanishing gradients"]
    assert kinds(Record(none | layers(net_5__dead=[1.0] * 3), {})) == ["dead units"]
    little = layers(net_0__gradient_norm=[1e-9] * 3, net_1__gradient_norm=[1.0] * 3, net_5__dead=[1.0] * 3)
    assert kinds(Record(little, {})) == ["dead units", "vanishing gradients"]


def test_one_odd_step_makes_no_illness():
    values = layers(net_0__gradient_norm=[1.0, 1.0, 1e-9, 1.0], net_1__gradient_norm=[1.0] * 4)
    values["net.0"] |= layers(a__dead=[0.0, 1.0, 0.0, 0.0], a__saturated=[0.0, 0.0, 1.0, 0.0])["a"]
    values["net.0"] |= layers(a__update_ratio=[1e-3, 1.0, 1e-3, 1e-3], a__symmetric=[1.0, 1.0, 0.0, 0.0])["a"]
    assert diagnose(Record(values, {})) == []


def test_units_that_became_alike_are_no_copies():
    """One huge update makes all rows nearly the same; that is another illness."""
    assert diagnostics.symmetry(layers(net_0__symmetric=[0.0, 1.0, 1.0])) is None
    assert diagnostics.symmetry(layers(net_0__symmetric=[1.0, 0.6, 0.7])).value == 0.6
    assert diagnostics.symmetry(layers(net_0__symmetric=[1.0])) is None  # of a single step nothing is known


def test_gradients_that_explode_through_the_layers_and_in_time():
    back = layers(net_0__gradient_norm=[1e5] * 3, net_1__gradient_norm=[10.0] * 3, net_2__gradient_norm=[1.0] * 3)
    verdict = diagnostics.exploding(Record(back, {}))
    assert (verdict.layer, verdict.value) == ("net.0", pytest.approx(1e4))
    assert "train.clip_norm" in verdict.sentence
    later = layers(net_0__gradient_norm=[1.0, 1.0, 1.0, 2.0, 5e3])
    assert diagnostics.exploding(Record(later, {})).value == pytest.approx(5e3)
    assert diagnostics.exploding(Record(layers(net_0__gradient_norm=[1.0, 1.0, 2.0, 900.0]), {})) is None
    endless = layers(net_0__gradient_norm=[1.0, 1.0, math.nan])
    assert "stopped being finite" in diagnostics.exploding(Record(endless, {})).sentence
    # a gradient of a loss that is not finite says nothing of the layers
    bad = {"train/loss": curve(1.0), "step/train/loss": curve(1.0, 1.0, math.nan)}
    assert diagnostics.exploding(Record(endless, bad)) is None


LOSSES = {
    "falls": ([2.3, 1.0, 0.5, 0.3, 0.25, 0.2, 0.19, 0.2], None),
    "noise at the end": ([2.3, 0.5, 0.02, 0.001, 0.02, 0.003, 0.0, 0.01], None),
    "negative": ([0.01, -0.3, -0.5, -0.7, -0.8, -0.85, -0.86, -0.9], None),
    "ends above": ([2.3, 3.0, 4.0, 4.5, 5.0, 5.0, 6.0, 6.0], "diverging loss"),
    "explodes and comes back": ([2.3, 1e4, 5.0, 2.0, 1.0, 0.5, 0.3, 0.2], "diverging loss"),
    "swings": ([2.3, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0], "oscillating loss"),
    "falls in a line": ([2.4, 2.1, 1.8, 1.5, 1.2, 0.9, 0.6, 0.3], None),
    "stays": ([2.31, 2.3, 2.31, 2.3, 2.3, 2.31, 2.3, 2.3], "high bias"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    values, kind = LOSSES[name]
    found = diagnostics.of_loss(Record({}, {"train/loss": curve(*values)}))
    assert [verdict.kind for verdict in found] == ([kind] if kind else [])


def test_the_beginning_is_the_first_step_s_loss():
    """The first mean that is logged may be of steps in which all was lost already."""
    values = curve(1e6, 1e6, 1e6)
    assert diagnostics.of_loss(Record({}, {"train/loss": values}))[0].kind == "high bias"
    first = {"train/loss": values, "step/train/loss": [(1, 2.3)]}
    assert diagnostics.of_loss(Record({}, first))[0].kind == "diverging loss"


# of a method whose loss need not fall, such as MoCo's
RISING = {
    "rises by its nature": ([0.4, 2.6, 4.1, 4.1, 4.0, 4.0, 4.0, 3.9], None),
    "rises from nearly nothing": ([3e-4, 3.2, 4.1, 4.0, 4.0, 3.9, 3.9, 3.9], None),
    "rises for as long as it is trained": ([6.4, 6.5, 6.6, 6.7, 6.75, 6.8, 6.85, 6.9], None),
    "stays": ([2.31, 2.3, 2.31, 2.3, 2.3, 2.31, 2.3, 2.3], None),
    "is nothing": ([0.0] * 8, None),
    "falls": ([2.3, 1.0, 0.5, 0.3, 0.25, 0.2, 0.19, 0.2], None),
    "noise where it has come to": ([3e-4, 4.0, 4.1, 4.0, 4.1, 4.0, 4.1, 4.0], None),
    "explodes": ([2.3, 2.5, 2.6, 2.6, 9e3, 4e4, 5e4, 5e4], "diverging loss"),
    "explodes from the first log on": ([0.03, *[1e6] * 7], "diverging loss"),
    "explodes and comes back": ([2.3, 1e4, 5.0, 2.0, 1.0, 0.5, 0.3, 0.2], "diverging loss"),
    "stops being finite": ([2.3, 2.5, 2.6, 2.6, math.nan, math.nan], "diverging loss"),
    "never is finite": ([math.inf] * 8, "diverging loss"),
    "swings": ([2.3, 4.0, 3.0, 5.0, 3.0, 5.0, 3.0, 5.0], "oscillating loss"),
}


def of_rising(values, **others):
    """The verdicts on a run of such a method, all of them."""
    step_losses = {"step/train/loss": [(1, values[0])]}
    curves = {f"{name}/loss": curve(*points) for name, points in {"train": values, **others}.items()}
    return diagnose(Record({}, step_losses | curves, loss_falls=False))


@pytest.mark.parametrize("name", RISING)
def test_of_a_loss_that_need_not_fall_an_explosion_and_swings_are_told(name):
    values, kind = RISING[name]
    assert [verdict.kind for verdict in of_rising(values)] == ([kind] if kind else [])


def test_an_explosion_is_told_in_numbers():
    (verdict,) = of_rising(RISING["explodes"][0])
    assert "the loss exploded: it began at 2.3, was 5e+04 at step 70 and ended at 5e+04; lower" in verdict.sentence
    (verdict,) = of_rising(RISING["stops being finite"][0])
    assert "the loss stopped being finite at step 50; lower" in verdict.sentence
    curves = {"train/loss": curve(2.0, 1.9), "step/train/loss": [(1, 2.0), (21, math.nan)]}
    for falls in (True, False):
        (verdict,) = diagnostics.of_loss(Record({}, curves, falls))
        assert "stopped being finite at step 21" in verdict.sentence


def test_a_loss_that_need_not_fall_tells_nothing_of_bias_and_variance():
    rising = {"train": [1.5, 1.0, 0.6, 0.3], "validation": [1.5, 1.0, 1.2, 1.4]}
    curves = {f"{name}/loss": curve(*values) for name, values in rising.items()}
    # MoCo's accuracy is highest against the random keys that its queue begins with
    scores = {"step/train/accuracy": [(1, 0.8)], "train/accuracy": curve(0.5), "validation/accuracy": curve(0.3)}
    for measured, kind in ((curves, "high variance"), (curves | scores, "high bias")):
        assert kinds(Record({}, measured)) == [kind]
        assert kinds(Record({}, measured, loss_falls=False)) == []


def test_the_losses_of_two_players_are_not_judged():
    curves = {"first/loss": curve(1.0, 2.0, 9.0), "second/loss": curve(1.0, 1.0, 1.0)}
    assert diagnostics.of_loss(Record({}, curves)) == []


@pytest.mark.parametrize(
    ("scores", "kind", "value"),
    [
        ({"train": 0.99, "validation": 0.97, "baseline": 0.1}, None, None),
        ({"train": 0.99, "validation": 0.72, "baseline": 0.1}, "high variance", 0.3),
        ({"train": 0.55, "validation": 0.55, "baseline": 0.1}, "high bias", 0.5),
        ({"train": 0.46, "validation": 0.28, "baseline": 0.1}, "high bias", 0.6),  # the gap is 0.2
        ({"train": 0.73, "validation": 0.28, "baseline": 0.1}, "high variance", 0.5),  # the bias is 0.3
        ({"train": 0.5, "validation": 0.95, "baseline": 0.1}, None, None),  # trained on mixed images
        (
            {"train": 0.1, "validation": 1.0, "baseline": 2.3, "ideal": 0.0, "quantity": "loss"},
            "high variance",
            0.9 / 2.3,
        ),
        ({"train": 1.15, "validation": 1.2, "baseline": 2.3, "ideal": 0.0, "quantity": "loss"}, "high bias", 0.5),
    ],
)
def test_bias_and_variance(scores, kind, value):
    verdict = bias_variance(**scores)
    if kind is None:
        assert verdict is None
        return
    assert (verdict.kind, verdict.layer, verdict.value) == (kind, None, pytest.approx(value))
    name = scores.get("quantity", "accuracy")
    assert f"{name} is {scores['train']:.3g} on train and {scores['validation']:.3g} on validation" in verdict.sentence


def test_a_baseline_that_cannot_be_beaten_is_refused():
    with pytest.raises(ValueError, match="ideal must differ from baseline"):
        bias_variance(0.5, 0.5, 1.0)


def test_a_validation_loss_that_rises_while_the_other_falls():
    def said(train, validation):
        curves = {"step/train/loss": [(1, 2.0)], "train/loss": curve(*train), "validation/loss": curve(*validation)}
        return diagnostics.of_generalisation(Record({}, curves))

    verdict = said([1.5, 1.0, 0.6, 0.3], [1.5, 1.0, 1.2, 1.4])[0]
    assert (verdict.kind, verdict.value) == ("high variance", pytest.approx(0.4))
    assert "rose from 1 at step 20 to 1.4" in verdict.sentence
    assert said([1.5, 1.0, 0.6, 0.3], [1.5, 1.1, 1.0, 1.05]) == []
    assert said([1.5, 1.0, 1.3, 1.4], [1.5, 1.0, 1.2, 1.4]) == []  # the train loss rises as well


def test_high_bias_is_not_said_of_a_network_that_is_ill():
    curves = {"train/accuracy": curve(0.1), "validation/accuracy": curve(0.1), "step/train/accuracy": [(1, 0.1)]}
    curves |= {"train/loss": curve(2.3), "validation/loss": curve(2.3)}
    assert kinds(Record({}, curves)) == ["high bias"]
    assert kinds(Record(layers(a__dead=[1.0, 1.0]), curves)) == ["dead units"]


# the file


def test_points_are_sorted_by_what_they_are_about(tmp_path):
    file = Points(tmp_path / "points.jsonl")
    file.write(1, {"layer/encoder.layers.0/dead": 0.5, "step/train/loss": 2.0, "train/loss": 1.0})
    file.write(26, {"layer/encoder.layers.0/dead": 0.25})
    file.close()
    record = diagnostics.read(tmp_path / "points.jsonl")
    assert record.layers == {"encoder.layers.0": {"dead": [(1, 0.5), (26, 0.25)]}}
    assert record.curves == {"step/train/loss": [(1, 2.0)], "train/loss": [(1, 1.0)]}
    assert diagnostics.read(tmp_path / "absent") == Record({}, {})


def test_the_file_holds_series_and_verdicts_of_every_seed(tmp_path):
    dying, well = layers(a__dead=[0.0, 0.9], b__gradient_norm=[1.0, math.inf]), layers(a__dead=[0.0, 0.1])
    records = {0: Record(well, {}), 3: Record(dying, {})}
    said = diagnostics_file.write(tmp_path / "new/x.json", records)
    content = json.loads((tmp_path / "new/x.json").read_text())
    assert content["seeds"]["0"]["steps"] == [10, 20]
    assert content["seeds"]["3"]["layers"] == {"a": {"dead": [0.0, 0.9]}, "b": {"gradient_norm": [1.0, None]}}
    assert [(v["kind"], v["layer"], v["seeds"]) for v in content["verdicts"]] == [
        ("exploding gradients", "b", [3]),
        ("dead units", "a", [3]),
    ]
    assert content["seeds"]["0"]["verdicts"] == []
    assert content["verdicts"][0]["value"] is None  # infinite
    assert said[1].startswith("seed 3: units are dead: 90 % of the units of a are 0")
    assert diagnostics_file.text(said) == "\n".join(said)
    diagnostics_file.write(tmp_path / "again.json", dict(records))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "new/x.json").read_bytes()


def test_a_single_seed_is_not_named_and_health_is_told(tmp_path):
    records = {0: Record(layers(a__dead=[0.9, 0.9]), {})}
    assert diagnostics_file.write(tmp_path / "x.json", records)[0].startswith("units are dead")
    assert diagnostics_file.write(tmp_path / "y.json", {0: Record({}, {})}) == []
    assert diagnostics_file.text([]) == "no illness found"


def pretrain(data, folder, pretext, change=lambda method: None, **numbers):
    """What a pretext on the four easy classes records in sixty steps, and the method; `change` is done before."""
    train = {"steps": 60, "batch_size": 32, "log_every": 5, "evaluate_every": 20, "diagnose_every": None}
    train |= {"optimizer": {"name": "adamw", "learning_rate": 0.01}, **numbers.pop("train", {})}
    encoder = {"network": "mlp", "norm": "none", "hidden_widths": [32, 16]}
    entry = {"method": pretext, "dataset": "blobs", "encoder": encoder, "train": train, **numbers}
    config = resolve("pretext", pretext, entry).config
    seed_everything(0, "init")
    method = model_folder.build("pretext", pretext, config, data.spec)
    change(method)
    splits = [data.split(name) for name in ("train", "validation")]
    batches = [Batches(split.images, None, 32, 0, torch.device("cpu")) for split in splits]
    fit(method, *batches, method.config.train, 0, folder)
    return diagnostics.read(folder / "points.jsonl", method.loss_falls), method


class TestLossesThatNeedNotFall:
    """Of healthy runs: their features are spread, and yet their losses rise."""

    @pytest.mark.parametrize("pretext", ["moco", "dino"])
    def test_a_run_whose_loss_rises_by_its_nature_is_not_ill(self, data, tmp_path, pretext):
        numbers = {"moco": {"queue_size": 64}, "dino": {"num_prototypes": 64}}[pretext]
        record, method = pretrain(data, tmp_path, pretext, train={"diagnose_every": 20}, **numbers)
        loss = record.curves["train/loss"]
        assert loss[-1][1] > record.curves["step/train/loss"][0][1]
        assert not method.loss_falls
        assert diagnose(record) == []
        illness = {"moco": ["diverging loss"], "dino": ["high bias"]}[pretext]  # of a method that does not say it
        assert kinds(record._replace(loss_falls=True)) == illness

    def test_a_run_of_such_a_method_that_ended_is_not_explained_by_its_rise(self, data, tmp_path):
        def spoil(method):
            def spoilt(batch, phase):
                output = forward(batch, phase)
                steps.append(output)
                return output._replace(loss=output.loss * math.nan) if len(steps) > 30 else output

            forward, steps = method.forward, []
            method.forward = spoilt

        with pytest.raises(NonFiniteLossError) as raised:
            pretrain(data, tmp_path, "moco", spoil, queue_size=64, train={"diagnose_every": 20})
        assert "MoCo: phase 'train': the loss is nan" in str(raised.value)
        assert "diverges" not in str(raised.value)

    def test_the_classes_say_it_as_literals(self):
        said = {name: catalogue.class_constant("pretext", name, "loss_falls", True) for name in PRETEXTS}
        assert [name for name, falls in said.items() if not falls] == ["byol", "dino", "moco", "simsiam"]
        assert said == {name: catalogue.method_class("pretext", name).loss_falls for name in PRETEXTS}


class TestRepresentation:
    """SimCLR without its negatives has nothing that keeps features apart."""

    @staticmethod
    def without_negatives(method):
        def attract(batch, phase):
            first, second = method.encoder(torch.cat(batch)).chunk(2)
            return Output(-torch.nn.functional.cosine_similarity(first, second).mean())

        method.forward = attract

    def test_features_that_nothing_keeps_apart_collapse(self, data, tmp_path):
        record, _ = pretrain(data, tmp_path, "simclr", self.without_negatives)
        (verdict,) = diagnostics.of_representation(record)
        assert verdict.kind == "representation collapse"
        assert verdict in diagnose(record)
        assert verdict.value == record.curves["representation/deviation"][-1][1] < 0.03
        assert "the features of all images are nearly the same" in verdict.sentence

    def test_those_of_a_healthy_pretext_do_not(self, data, tmp_path):
        record, _ = pretrain(data, tmp_path, "simclr")
        assert [step for step, _ in record.curves["representation/effective_rank"]] == [20, 40, 60]
        assert diagnostics.of_representation(record) == []

    def test_a_rank_that_falls_to_a_quarter_is_told(self):
        def record(*ranks):
            curves = {"effective_rank": ranks, "deviation": [0.5] * len(ranks)}
            return Record({}, {f"representation/{k}": list(enumerate(v)) for k, v in curves.items()})

        assert diagnostics.of_representation(record(30.0, 20.0, 8.0)) == []
        (verdict,) = diagnostics.of_representation(record(20.0, 32.0, 7.0))
        assert verdict.kind == "dimensional collapse"
        assert "fell from 32 to 7" in verdict.sentence
        (verdict,) = diagnostics.of_representation(record(2.0, 1.4))
        assert verdict.kind == "representation collapse"

    def test_features_of_a_method_that_reads_labels_are_not_judged(self, data, tmp_path):
        train(data, tmp_path, {})
        assert not [name for name, *_ in points.read(tmp_path / "points.jsonl") if name.startswith("representation/")]
