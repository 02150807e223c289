"""The parts are nested and stratified, the whole part is the experiment itself, and the words follow the numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlml import figures, model_folder
from mlml.data.batches import split_batches
from mlml.data.parts import Reduced, nested
from mlml.declaration import resolve
from mlml.diagnostics import HIGH_BIAS, HIGH_VARIANCE
from mlml.seeds import seed_everything
from mlml.studies._subject import Subject
from mlml.studies._verdict import Point, Scale, diagnosis, sentences, variance
from mlml.studies.learning_curve import LearningCurve, plot
from mlml.train import fit
from stages._studying import of_length

CPU = torch.device("cpu")
ENTRY = {
    "method": "classifier",
    "dataset": "blobs",
    "augment": {"padding": 0, "flip_prob": 0.0},
    "encoder": {"network": "mlp", "hidden_widths": [16]},
    "train": {"epochs": 2, "batch_size": 16, "evaluate_every": 4, "checkpoint_every": 2},
}


def train(experiment, data, seed, folder):
    seed_everything(seed, "init")
    method = model_folder.build("supervised", "classifier", experiment.config, data.spec)
    config = experiment.config.train
    batches = [split_batches(data, name, config.batch_size, seed, CPU) for name in ("train", "validation")]
    return method, fit(method, *batches, config, seed, folder).metrics


def subject(data, folder: Path, seeds=(0, 1)):
    """A trained classifier of blobs, and how often each label was trained."""
    experiment = resolve("supervised", "blob", ENTRY)
    trained = {seed: train(experiment, data, seed, folder / f"whole_{seed}") for seed in seeds}
    asked = []

    def anew(label, part, seed, steps):
        asked.append((label, steps))
        return train(of_length(experiment, steps), part, seed, folder / label)

    def build(seed):
        seed_everything(seed, "init")
        return model_folder.build("supervised", "classifier", experiment.config, data.spec)

    load = {seed: method.eval() for seed, (method, _) in trained.items()}.__getitem__
    made = Subject("blob", experiment.config, "labels", seeds, data, CPU, load, build, anew, anew, folder)
    return made, trained, asked


@pytest.mark.parametrize("seed", [0, 7])
def test_parts_are_nested_and_stratified(blob_data, seed):
    labels = blob_data.split("train").labels
    before = set()
    for fraction in (0.02, 0.1, 0.25, 0.5, 0.9, 1.0):
        chosen = nested(blob_data, fraction, seed)
        assert list(chosen) == sorted(set(chosen))
        assert before <= set(chosen)
        counts = np.bincount(labels[chosen], minlength=4)
        assert list(counts) == [max(1, round(fraction * 24))] * 4
        before = set(chosen)
    assert list(nested(blob_data, 1.0, seed)) == list(range(96))


def test_another_seed_takes_other_images(blob_data):
    assert set(nested(blob_data, 0.25, 0)) != set(nested(blob_data, 0.25, 1))


def test_only_the_train_split_is_reduced(blob_data):
    part = Reduced(blob_data, np.array([3, 5, 90]))
    whole = blob_data.split("train")
    np.testing.assert_array_equal(part.split("train").images, whole.images[[3, 5, 90]])
    np.testing.assert_array_equal(part.split("train").labels, whole.labels[[3, 5, 90]])
    for name in ("validation", "test"):
        np.testing.assert_array_equal(part.split(name).images, blob_data.split(name).images)
    assert part.spec == blob_data.spec


def test_the_whole_part_is_the_experiment_and_every_part_has_its_steps(blob_data, tmp_path):
    made, trained, asked = subject(blob_data, tmp_path)
    study = LearningCurve(LearningCurve.Config(experiment="blob", fractions=(0.1, 0.5, 1.0)))
    found = study.study(made)
    for seed, (_, metrics) in trained.items():
        assert found.metrics[seed]["fraction_1/validation/accuracy"] == metrics["validation/accuracy"]
    assert {steps for _, steps in asked} == {12}  # 2 epochs of 96 images in batches of 16
    assert [label for label, _ in asked] == [f"fraction_{f}_seed_{s}" for s in (0, 1) for f in ("0.1", "0.5", "1")]
    assert list(found.table["images"]) == [8, 48, 96] * 2  # of each of four classes 2, 12, 24
    assert set(found.metrics[0]) == {
        f"fraction_{f}/{split}/accuracy" for f in ("0.1", "0.5", "1") for split in ("train", "validation")
    }


def test_the_train_score_is_that_of_the_part(blob_data, tmp_path):
    made, _, _ = subject(blob_data, tmp_path, seeds=(0,))
    study = LearningCurve(LearningCurve.Config(experiment="blob", fractions=(0.1, 1.0), metric="validation/loss"))
    found = study.study(made)
    chosen = nested(blob_data, 0.1, 0)
    method, _ = made.train("fraction_0.1_seed_0", Reduced(blob_data, chosen), 0, 12)
    split = blob_data.split("train")
    with torch.no_grad():
        scores = method.eval().head(method.encoder(torch.from_numpy(split.images[chosen] / np.float32(255))))
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(split.labels[chosen]))
    assert found.metrics[0]["fraction_0.1/train/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_killed_study_ends_as_if_it_had_not_been(blob_data, tmp_path):
    study = LearningCurve(LearningCurve.Config(experiment="blob", fractions=(0.1, 0.5, 1.0)))
    whole = study.study(subject(blob_data, tmp_path / "whole")[0])
    made, _, asked = subject(blob_data, tmp_path / "parts")

    class Killed(BaseException):
        pass

    def die(label, part, seed, steps):
        if len(asked) == 4:
            raise Killed
        return made.train(label, part, seed, steps)

    with pytest.raises(Killed):
        study.study(Subject(**{**vars(made), "train": die}))
    again = study.study(made)
    assert again.metrics == whole.metrics
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_a_metric_that_is_not_measured_is_refused(blob_data, tmp_path):
    made, _, _ = subject(blob_data, tmp_path, seeds=(0,))
    study = LearningCurve(LearningCurve.Config(experiment="blob"))
    study.quantity = "likelihood"
    with pytest.raises(ValueError, match="'blob' does not measure 'likelihood'; it has loss, accuracy"):
        study.study(made)


def test_the_baseline_is_the_most_frequent_class_or_the_untrained_network(blob_data, tmp_path):
    made, _, _ = subject(blob_data, tmp_path, seeds=(0,))
    by_accuracy = LearningCurve(LearningCurve.Config(experiment="blob"))
    assert by_accuracy._baseline(made) == 0.25
    by_loss = LearningCurve(LearningCurve.Config(experiment="blob", metric="validation/loss"))
    assert 1.0 < by_loss._baseline(made) < 2.5  # about ln 4
    assert by_loss._baseline(made) != by_loss._baseline(subject(blob_data, tmp_path, seeds=(1,))[0])


ACCURACY, LOSS = Scale("accuracy", 0.1, 1.0), Scale("loss", 2.3, 0.0)


@pytest.mark.parametrize(
    ("point", "scale", "kind"),
    [
        (Point(60, 1.0, 0.83), ACCURACY, "high variance"),
        (Point(60, 0.5, 0.49), ACCURACY, "high bias"),
        (Point(60, 0.99, 0.97), ACCURACY, "neither"),
        (Point(60, 0.6, 0.3), ACCURACY, "high bias"),  # of both, the greater
        (Point(60, 0.01, 0.8), LOSS, "high variance"),
        (Point(60, 1.5, 1.52), LOSS, "high bias"),
        (Point(60, 0.05, 0.1), LOSS, "neither"),
    ],
)
def test_diagnoses(point, scale, kind):
    assert diagnosis(point, scale) == kind


@given(st.floats(0, 1), st.floats(0, 1))
def test_an_accuracy_and_its_error_are_diagnosed_alike(train_score, validation_score):
    point, error = Point(9, train_score, validation_score), Point(9, 1 - train_score, 1 - validation_score)
    error_scale = Scale("error", 0.9, 0.0)
    assert variance(point, ACCURACY) == pytest.approx((train_score - validation_score) / 0.9)
    assert variance(point, ACCURACY) == pytest.approx(variance(error, error_scale), abs=1e-9)
    bias = 1 - max(ACCURACY.share(train_score), ACCURACY.share(validation_score))
    assert bias == pytest.approx(1 - max(error_scale.share(1 - x) for x in (train_score, validation_score)), abs=1e-9)
    if max(variance(point, ACCURACY) - HIGH_VARIANCE, bias - HIGH_BIAS) < -1e-9:
        assert diagnosis(point, ACCURACY) == "neither"


def test_a_scale_without_length_is_refused():
    with pytest.raises(ValueError, match=r"ideal must differ from baseline; got 1\.0 for both"):
        diagnosis(Point(9, 1.0, 1.0), Scale("accuracy", 1.0, 1.0))


def test_a_closing_gap_is_told():
    points = [Point(60, 1.0, 0.80), Point(1200, 0.99, 0.97)]
    assert sentences("mlp", points, ACCURACY, 3) == (
        "mlp: accuracy on validation goes from 80.0 % with 60 images to 97.0 % with 1200; its distance to train from "
        "20.0 points to 2.0 points (means of 3 seeds).",
        "With 60 images (train 100.0 %, validation 80.0 %): high variance; more data or regularisation would help.",
        "With 1200 images (train 99.0 %, validation 97.0 %): neither high bias nor high variance.",
        "The gap closes as data grows: at the beginning it was variance, and more images were the cure.",
    )


def test_flat_and_low_curves_are_told():
    told = sentences("mlp", [Point(60, 2.0, 2.05), Point(1200, 1.9, 1.92)], LOSS, 1)
    assert told[-1] == "Both curves are flat and low: more images would not help."
    assert "high bias; a larger network, longer training or less regularisation would help." in told[2]
    assert "from 0.05 to 0.02 (1 seed)" in told[0]


def test_of_a_loss_that_need_not_fall_bias_and_variance_are_not_told():
    points = [Point(60, 2.0, 2.05), Point(1200, 1.9, 1.92)]
    told = sentences("moco", points, LOSS, 1, loss_falls=False)
    assert told[:1] == sentences("moco", points, LOSS, 1)[:1]
    assert told[1:] == ("What moco is measured by moves with it, so it tells nothing of bias and variance.",)


def test_the_study_asks_the_class_whether_the_loss_falls(blob_data, tmp_path, monkeypatch):
    made, _, _ = subject(blob_data, tmp_path, seeds=(0,))
    monkeypatch.setattr(type(made.build(0)), "loss_falls", False)
    study = LearningCurve(LearningCurve.Config(experiment="blob", fractions=(0.1, 1.0), metric="validation/loss"))
    assert study.study(made).sentences[1].startswith("What blob is measured by moves with it")


def test_the_figure_shows_the_means():
    table = pd.DataFrame({"fraction": [0.1, 1.0] * 2, "seed": [0, 0, 1, 1], "images": [10, 100] * 2})
    table["train"], table["validation"] = [1.0, 0.9, 0.9, 0.9], [0.5, 0.8, 0.6, 0.8]
    [axes] = plot(table, "accuracy", figures.LIGHT).axes
    by_label = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(by_label["train"], [(10, 95), (100, 90)])
    np.testing.assert_allclose(by_label["validation"], [(10, 55), (100, 80)])
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "accuracy, %"


@pytest.mark.parametrize("fractions", [(0.5, 0.1), (0.5,), (0.5, 1.5), (0.1, 0.1)])
def test_fractions_increase(fractions):
    with pytest.raises(ValueError, match="fractions"):
        LearningCurve.Config(experiment="blob", fractions=fractions)
