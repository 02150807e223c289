"""A class is left out and found again: of which data, by which errors, and what is said of it."""

import numpy as np
import pandas as pd
import pytest
import torch
from blobs import write_prepared

from mlml import figures, model_folder
from mlml.data.batches import split_batches
from mlml.declaration import resolve
from mlml.seeds import seed_everything
from mlml.studies._subject import Subject
from mlml.studies.anomaly import Anomaly, Seen, WithoutClass, plot, reconstruction_errors, sentences, sheet
from mlml.train import fit
from stages._studying import of_length

CPU = torch.device("cpu")
ENTRY = {
    "method": "autoencoder",
    "dataset": "blobs",
    "latent_dim": 2,
    "decoder_width": 4,
    "encoder": {"network": "mlp", "hidden_widths": [16]},
    "train": {"epochs": 2, "batch_size": 16, "evaluate_every": 4, "checkpoint_every": 2},
}
STEPS = 12  # 2 epochs of 96 images, however many are left


def subject(data, folder, seeds=(0,), family="pretext", entry=ENTRY):
    """An autoencoder of blobs, and what was asked of its training."""
    experiment = resolve(family, "blob", entry)
    asked = []

    def build(seed):
        seed_everything(seed, "init")
        return model_folder.build(family, entry["method"], experiment.config, data.spec)

    def anew(label, part, seed, steps):
        asked.append((label, part, steps))
        other = of_length(experiment, steps)
        seed_everything(seed, "init")
        method = model_folder.build(family, entry["method"], other.config, part.spec)
        config = other.config.train
        batches = [split_batches(part, name, config.batch_size, seed, CPU) for name in ("train", "validation")]
        return method, fit(method, *batches, config, seed, folder / label).metrics

    return Subject("blob", experiment.config, "labels", seeds, data, CPU, build, build, anew, anew, folder), asked


def study(**numbers):
    return Anomaly(Anomaly.Config(experiment="blob", **numbers))


def test_a_class_is_left_out_of_train_and_validation_alone(blob_data):
    rest = WithoutClass(blob_data, 2)
    for name in ("train", "validation"):
        whole, left = blob_data.split(name), rest.split(name)
        kept = [k for k, label in enumerate(whole.labels) if label != 2]
        np.testing.assert_array_equal(left.labels, whole.labels[kept])
        np.testing.assert_array_equal(left.images, whole.images[kept])
        np.testing.assert_array_equal(left.masks, whole.masks[kept])
    np.testing.assert_array_equal(rest.split("test").labels, blob_data.split("test").labels)
    pixels = rest.split("train").images / 255
    assert rest.spec.mean == pytest.approx((pixels.mean(),))
    assert rest.spec.std == pytest.approx((pixels.std(),))
    assert rest.spec.mean != pytest.approx(blob_data.spec.mean, rel=1e-6)


def test_the_auroc_is_how_often_the_class_has_the_greater_error(blob_data, tmp_path):
    made, asked = subject(blob_data, tmp_path, seeds=(0, 1))
    found = study(classes=("b", "d"), num_images=3).study(made)
    assert [(label, steps) for label, _, steps in asked] == [
        (f"without_{number}_seed_{seed}", STEPS) for seed in (0, 1) for number in (1, 3)
    ]
    assert all(part.number not in part.split("train").labels for _, part, _ in asked)
    test = blob_data.split("test")
    for row in found.table.to_dict("records"):
        rest = WithoutClass(blob_data, row["number"])
        method, _ = made.train(f"without_{row['number']}_seed_{row['seed']}", rest, row["seed"], STEPS)
        images = torch.from_numpy(test.images / np.float32(255))
        with torch.no_grad():
            again = method.eval().reconstruct(images)
        errors = [float(((a.double() - x.double()) ** 2).mean()) for a, x in zip(again, images, strict=True)]
        pairs = [
            1.0 if errors[i] > errors[j] else 0.5 if errors[i] == errors[j] else 0.0
            for i in range(24)
            for j in range(24)
            if test.labels[i] == row["number"] != test.labels[j]
        ]
        assert len(pairs) == row["images"] * row["others"] == 6 * 18
        assert row["auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)
        own = [error for error, label in zip(errors, test.labels, strict=True) if label == row["number"]]
        assert row["error"] == pytest.approx(np.mean(own), rel=1e-5)
        assert found.metrics[row["seed"]][f"test/auroc/class_{row['number']}"] == row["auroc"]
    for metrics in found.metrics.values():
        values = [metrics["test/auroc/class_1"], metrics["test/auroc/class_3"]]
        assert metrics["test/auroc"] == pytest.approx(np.mean(values))
    assert list(found.pictures) == ["auroc", "best and worst images"]


def test_the_sheet_holds_the_least_and_the_greatest_errors(blob_data, tmp_path):
    made, _ = subject(blob_data, tmp_path)
    found = study(classes=("a",), num_images=2).study(made)
    [seen] = found.pictures["best and worst images"].args[0].values()
    method, _ = made.train("without_0_seed_0", WithoutClass(blob_data, 0), 0, STEPS)
    errors, labels = reconstruction_errors(method.eval(), made.split("test", 0))
    order = sorted(range(24), key=lambda k: errors[k])
    chosen = [*order[:2], *order[-2:]]
    np.testing.assert_array_equal(seen.images, blob_data.split("test").images[chosen] / np.float32(255))
    assert seen.anomalous.tolist() == [labels[k] == 0 for k in chosen]
    with torch.no_grad():
        again = method.reconstruct(torch.from_numpy(seen.images)).numpy()
    np.testing.assert_allclose(seen.reconstructions, again, atol=1e-6)


def test_a_killed_study_ends_as_if_it_had_not_been(blob_data, tmp_path):
    whole = study(classes=("a", "b")).study(subject(blob_data, tmp_path / "whole")[0])
    made, asked = subject(blob_data, tmp_path / "parts")

    class Killed(BaseException):
        pass

    def die(label, part, seed, steps):
        if len(asked) == 1:
            raise Killed
        return made.train(label, part, seed, steps)

    with pytest.raises(Killed):
        study(classes=("a", "b")).study(Subject(**{**vars(made), "train": die}))
    again = study(classes=("a", "b")).study(made)
    assert again.metrics == whole.metrics
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_what_cannot_be_studied_is_refused_before_any_training(blob_data, tmp_path):
    made, asked = subject(blob_data, tmp_path)
    with pytest.raises(ValueError, match=r"classes: there is no class 'e' in 'blobs'.*known: a, b, c, d"):
        study(classes=("a", "e")).study(made)
    entry = {**{key: ENTRY[key] for key in ("dataset", "encoder", "train")}, "method": "classifier"}
    other, _ = subject(blob_data, tmp_path, family="supervised", entry=entry)
    with pytest.raises(ValueError, match="'blob' does not reconstruct images; name an autoencoder's experiment"):
        study().study(other)
    unlabelled, _ = subject(write_prepared(tmp_path / "plain" / "blobs", labelled=False), tmp_path)
    with pytest.raises(ValueError, match="the data has no classes"):
        study().study(unlabelled)
    np.save(blob_data.folder / "test/labels.npy", np.zeros(24, np.int64))
    with pytest.raises(ValueError, match=r"split 'test' of 'blobs' must hold images of other classes than 'a'"):
        study(classes=("a",)).study(made)
    with pytest.raises(ValueError, match=r"than 'b', and of that; leave it out of 'classes'"):
        study(classes=("b",)).study(made)
    assert not asked
    with pytest.raises(ValueError, match="must be different from each other"):
        study(classes=("a", "a"))


TABLE = pd.DataFrame(
    {"class": ["cat", "dog"] * 2, "number": [0, 1] * 2, "seed": [0, 0, 1, 1], "auroc": [0.9, 0.4, 0.8, 0.2]}
)


def test_the_words_follow_the_numbers():
    assert sentences("ae", TABLE) == (
        "ae: trained without a class, it finds that class with an AUROC of 0.575 (means of 2 seeds).",
        "Of 2 classes 'cat' is found best, 0.850, 'dog' worst, 0.300; 0.5 is chance.",
        "Below chance: 'dog'; without having seen it, it comes out better than the others.",
    )
    assert sentences("ae", TABLE[:1]) == (
        "ae: trained without a class, it finds that class with an AUROC of 0.900 (1 seed).",
    )


def test_the_figures_show_means_and_frames():
    [axes] = plot(TABLE, figures.LIGHT).axes
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [float(np.asarray(dot).item()) for dot in dots] == pytest.approx([0.85, 0.3])
    seen = Seen(np.zeros((2, 1, 4, 4)), np.ones((2, 1, 4, 4)), np.array([False, True]))
    places = sheet({"cat": seen}, figures.DARK).axes
    assert [place.spines["left"].get_visible() for place in places] == [False, True] * 2
    assert [float(np.asarray(place.images[0].get_array()).max()) for place in places] == [0, 0, 1, 1]
