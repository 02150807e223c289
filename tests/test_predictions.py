import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mlml import figures, prediction_figures
from mlml.data.batches import Batches
from mlml.predictions import Examples, predict

CPU = torch.device("cpu")


class Read(nn.Module):
    """Tells a class by the brightness of an image, or of each pixel: 0, 1 or 2 at 0, 100 or 200."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def scores(self, images):
        levels = images[:, 0] * 255 / 100  # (b, h, w)
        if not self.dense:
            levels = levels.mean((1, 2))
        return -torch.stack([(levels - kind).abs() for kind in range(3)], 1)


def test_a_confusion_has_true_classes_in_rows_and_mistakes_come_by_their_margin():
    # what is shown, and what is said to be true; 150 reads as class 1 by a hair, which argmax takes as the first
    shown = np.array([0, 100, 200, 200, 0, 140, 200, 110, 60])
    truth = np.array([0, 1, 2, 0, 2, 2, 1, 1, 0])
    images = np.broadcast_to(shown[:, None, None, None], (9, 1, 2, 2)).astype(np.uint8)
    found = predict(Read(dense=False), Batches(images, truth, 4, 0, CPU), 3, 5, 10)
    predicted = np.array([0, 1, 2, 2, 0, 1, 2, 1, 1])
    wanted = np.zeros((3, 3), int)
    for true, guess in zip(truth, predicted, strict=True):
        wanted[true, guess] += 1
    assert np.array_equal(found.confusion, wanted)
    # margins: 200 for 0 is off by 2, as is 0 for 2; 200 for 1 by 1; 140 for 2 by 0.2; 60 for 0 by 0.2
    assert (255 * found.mistakes.images[:, 0, 0, 0]).round().astype(int).tolist()[:3] == [200, 0, 200]
    assert found.mistakes.truth.tolist()[:3] == [0, 2, 1]
    assert found.mistakes.predicted.tolist()[:3] == [2, 0, 2]
    assert len(found.mistakes.images) == 5
    assert len(predict(Read(dense=False), Batches(images, truth, 4, 0, CPU), 3, 5, 2).mistakes.images) == 2
    assert found.first.truth.tolist() == truth[:5].tolist()
    assert found.first.predicted.tolist() == predicted[:5].tolist()
    assert (255 * found.first.images[:, 0, 0, 0]).round().tolist() == shown[:5].tolist()


def test_predictions_of_pixels_are_counted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    seen, truth = rng.integers(0, 3, (2, 11, 4, 5)).astype(np.uint8)
    found = predict(Read(dense=True), Batches(100 * seen[:, None], truth, 4, 0, CPU), 3, 6, 10)
    wanted = np.zeros((3, 3), int)
    np.add.at(wanted, (truth.ravel(), seen.ravel()), 1)
    assert np.array_equal(found.confusion, wanted)
    assert found.mistakes is None
    assert np.array_equal(found.first.predicted, seen[:6])
    assert np.array_equal(found.first.truth, truth[:6])


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def holds(path, colour):
    return (pixels(path) == np.rint(255 * np.array(colour)).astype(int)).all(1).sum()


def test_masks_are_drawn_in_the_colours_of_their_classes(tmp_path):
    truth = np.zeros((3, 8, 8), int)
    truth[1] = 1
    predicted = truth.copy()
    predicted[2] = 2
    examples = Examples(np.random.default_rng(0).random((3, 3, 8, 8)), truth, predicted)
    prediction_figures.write_masks(examples, ["background", "a", "b", "c"], tmp_path / "new" / "masks.png")
    first, second, third = prediction_figures.PALETTE[:3]
    counts = [holds(tmp_path / "new" / "masks.png", colour) for colour in (first, second, third)]
    assert 1.5 < counts[0] / counts[1] < 2.5  # in two masks of six, and in one
    assert not counts[2]  # class c is neither in a mask nor named
    prediction_figures.write_masks(examples, ["background", "a", "b", "c"], tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new" / "masks.png").read_bytes()


def test_a_confusion_is_darkest_where_all_of_a_class_are(tmp_path):
    prediction_figures.write_confusion(np.array([[9, 0], [0, 0]]), "ab", tmp_path / "one.png")
    prediction_figures.write_confusion(np.array([[9, 0], [0, 4]]), "ab", tmp_path / "two.png")
    darkest = prediction_figures.matplotlib.colormaps["Blues"](1.0)[:3]
    assert holds(tmp_path / "two.png", darkest) > 1.5 * holds(tmp_path / "one.png", darkest) > 100
    with pytest.raises(ValueError, match=r"one.png: the confusion of 3 classes must be as many .*; got \(2, 2\)"):
        prediction_figures.write_confusion(np.ones((2, 2), int), "abc", tmp_path / "one.png")


def test_mistakes_are_drawn_whatever_their_number(tmp_path):
    sizes = []
    for count in (1, 8, 9):
        images = np.full((count, 1, 8, 8), 0.2)
        mistakes = Examples(images, np.zeros(count, int), np.ones(count, int))
        prediction_figures.write_mistakes(mistakes, ["a", "b"], tmp_path / f"{count}.png")
        sizes.append(Image.open(tmp_path / f"{count}.png").size)
    assert sizes[0] == sizes[1]
    assert sizes[2][1] > 1.9 * sizes[1][1]
    grey = (0.2, 0.2, 0.2)
    assert 7 < holds(tmp_path / "8.png", grey) / holds(tmp_path / "1.png", grey) < 9
    with pytest.raises(ValueError, match="needs at least one; got none"):
        prediction_figures.write_mistakes(Examples(images[:0], mistakes.truth[:0], mistakes.truth[:0]), "ab", tmp_path)


def test_the_ink_is_that_of_the_other_figures():
    told = (prediction_figures.INK, prediction_figures.MUTED, prediction_figures.GRID)
    assert told == (figures.LIGHT.ink, figures.LIGHT.muted, figures.LIGHT.grid)


def test_a_sheet_has_a_row_of_pictures_for_each_name(tmp_path):
    images = np.random.default_rng(0).random((4, 1, 6, 6))
    rows = {"image": images, "hidden": np.zeros_like(images), "filled": 1 - images}
    prediction_figures.write_sheet(rows, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as picture:
        whole = np.asarray(picture.convert("L"))
        assert picture.width > picture.height
    prediction_figures.write_sheet({"image": images}, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.height < len(whole)
    dark = (whole < 5).mean(1) > 0.3  # the row that is black, the second
    middle = np.flatnonzero(dark).mean() / len(whole)
    assert 0.4 < middle < 0.6
