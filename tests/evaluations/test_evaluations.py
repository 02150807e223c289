"""Every evaluation with made-up generators and an extractor whose answers are known."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from mlml import catalogue, metrics
from mlml.data.batches import as_float
from mlml.evaluations import _inception, _subject
from mlml.evaluations._subject import MAX_WIDTH, EvaluationError, Extractor, Real, Seen, as_saved, compared

CPU = torch.device("cpu")


class Quadrants(nn.Module):
    """Knows a blob's class by its bright quadrant; the features are the means of the quadrants."""

    feature_dim = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, images):
        quadrants = images.mean(1).unflatten(1, (2, 4)).unflatten(3, (2, 4)).mean((2, 4))  # (b, 2, 2)
        return self.weight * quadrants.flatten(1)

    def scores(self, images):
        return 40 * self.encode(images)


class Copies(nn.Module):
    """Draws what is in a split, again and again, and reconstructs with a constant error."""

    def __init__(self, images, labels):
        super().__init__()
        self.pictures, self.labels, self.asked = as_float(torch.from_numpy(np.array(images))), labels, []

    def sample(self, num_samples, generator):
        places = torch.randint(len(self.pictures), (num_samples,), generator=generator)
        return self.pictures[places]

    def sample_classes(self, labels, generator):
        self.asked += labels.tolist()
        return torch.stack([self.pictures[list(self.labels).index(label)] for label in labels])

    def reconstruct(self, images):
        return (images - 0.1).abs()

    def interpolate(self, first, last, steps):
        raise NotImplementedError


class Grey(nn.Module):
    """Draws the same grey image always, a little brighter where the first class is; knows no class."""

    def sample(self, num_samples, generator):
        images = torch.full((num_samples, 1, 8, 8), 0.5)
        images[:, :, :4, :4] += 0.02
        return images


@pytest.fixture
def real(blob_data):
    return Real(blob_data, Extractor("quadrants", Quadrants(), "abcdef0123"), 10_000, CPU)


def evaluation(name, **numbers):
    cls = catalogue.method_class("evaluations", name)
    return cls(cls.Config(generator="g", extractor="e", **numbers))


def copies(data, split="train"):
    return Copies(data.split(split).images, data.split(split).labels)


COMPARING = [
    name
    for name in catalogue.names("evaluations")
    if catalogue.class_constant("evaluations", name, "extractor_targets", "labels") == "labels"
]
"""Those that compare images with real ones by a classifier."""

NUMBERS = {"sample_quality": {"num_asked": 12}, "reconstruction_quality": {"window": 7}}


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("name", COMPARING)
def test_an_evaluation_measures_what_its_class_says(name, split, real, blob_data, tmp_path):
    method, real = evaluation(name, **NUMBERS[name]), Real(blob_data, real.extractor, 10_000, CPU, split)
    one, same, other = (method.evaluate(copies(blob_data), real, seed, tmp_path) for seed in (0, 0, 1))
    told = {f"{split}/{measured}" for measured in method.measures}
    told |= {f"{split}/{measured}" for _, measured in getattr(method, "measures_if_offered", ())}
    full = {key for key in one if key.endswith("_quadrants-abcdef_n24")}
    assert {key for key in one if not key.startswith(("floor/", "system/"))} == told | full
    assert all(one[key] == one[key.removesuffix("_quadrants-abcdef_n24")] for key in full)
    assert f"{split}/fid_quadrants-abcdef_n24" in full  # fewer than 10,000: as many as the split has
    assert all(np.isfinite(value) for value in one.values())
    repeatable = {key: value for key, value in one.items() if not key.startswith("system/")}
    assert repeatable == {key: value for key, value in same.items() if not key.startswith("system/")}
    assert (one[f"{split}/fid"] == other[f"{split}/fid"]) == (name == "reconstruction_quality")  # which draws nothing
    assert catalogue.offers("generative", "vae", method.needs)
    assert list(tmp_path.glob("*.png"))


def test_good_samples_come_near_the_floor_and_bad_ones_do_not(real, blob_data, tmp_path):
    method = evaluation("sample_quality", num_asked=12)
    good = method.evaluate(copies(blob_data), real, 0, tmp_path)
    bad = method.evaluate(Grey(), real, 0, tmp_path)
    assert {key.removeprefix("floor/") for key in good if key.startswith("floor/")} == set(method.measures)
    assert good["floor/fid"] == bad["floor/fid"]
    assert good["test/fid"] < 0.05 < bad["test/fid"]
    assert good["test/kid"] < 0.005 < bad["test/kid"]
    assert good["test/inception_score"] > 3.5
    assert bad["test/inception_score"] < 1.1
    assert bad["test/class_distance"] >= 0.7 > good["test/class_distance"]
    assert bad["test/coverage"] == bad["test/recall"] == 0
    assert "test/conditional_accuracy" not in bad


def test_the_floor_is_train_against_test(real, blob_data):
    assert real.count == 24
    train, test = (real.extractor.see(real.images(split)) for split in ("train", "test"))
    assert len(train.features) == len(test.features) == 24
    assert real.floor["fid"] == metrics.fid(test.features, train.features)
    every_fourth = as_float(torch.from_numpy(np.array(blob_data.split("train").images[::4])))
    assert torch.equal(real.images("train"), every_fourth)  # evenly over the split
    assert Real(blob_data, real.extractor, 10, CPU).count == 10


def test_what_is_chosen_by_reads_no_image_of_test(real, blob_data, tmp_path):
    np.save(blob_data.folder / "test" / "images.npy", np.zeros((24, 1, 8, 8), np.uint8))
    seen = Real(blob_data, real.extractor, 10_000, CPU, "validation")
    copying = copies(blob_data, "validation")
    assert torch.equal(seen.held_out.features, real.extractor.see(copying.pictures).features)
    assert evaluation("sample_quality", num_asked=12).evaluate(copying, seen, 0, tmp_path)["validation/fid"] < 0.05
    found = evaluation("reconstruction_quality", window=7).evaluate(copying, seen, 0, tmp_path)
    errors = copying.pictures - copying.reconstruct(copying.pictures)
    assert found["validation/mse"] == pytest.approx(float((errors**2).mean()), rel=1e-5)


def test_samples_are_timed(real, blob_data, tmp_path, monkeypatch):
    slow = copies(blob_data)
    drawn = slow.sample
    monkeypatch.setattr(slow, "sample", lambda *arguments: (time.sleep(0.2), drawn(*arguments))[1])
    found = evaluation("sample_quality", num_asked=12).evaluate(slow, real, 0, tmp_path)
    assert found["system/sample_seconds"] >= 0.2


def test_the_conditional_accuracy_is_the_share_that_came_as_asked(real, blob_data, tmp_path):
    honest = copies(blob_data)
    method = evaluation("sample_quality", num_asked=10)
    assert method.evaluate(honest, real, 0, tmp_path)["test/conditional_accuracy"] == 1
    assert honest.asked == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    wrong = copies(blob_data)
    wrong.labels = np.where(wrong.labels == 3, 2, np.where(wrong.labels == 2, 3, wrong.labels))
    assert method.evaluate(wrong, real, 0, tmp_path)["test/conditional_accuracy"] == pytest.approx(0.6)  # of 2 and 3


def test_reconstructions_by_hand(real, blob_data, tmp_path):
    images = as_float(torch.from_numpy(np.array(blob_data.split("test").images)))
    found = evaluation("reconstruction_quality", window=7).evaluate(copies(blob_data), real, 0, tmp_path)
    again = (images - 0.1).abs()
    errors = [float(((a - b) ** 2).mean()) for a, b in zip(images.double(), again.double(), strict=True)]
    assert found["test/mse"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["test/psnr"] == pytest.approx(np.mean([-10 * np.log10(error) for error in errors]), rel=1e-5)
    assert found["test/ssim"] == pytest.approx(float(metrics.ssim(images, again, 7).mean()), rel=1e-9)
    with pytest.raises(EvaluationError, match="window: the window must be odd and fit in images of 8 x 8"):
        evaluation("reconstruction_quality").evaluate(copies(blob_data), real, 0, tmp_path)


def test_a_method_without_the_function_is_refused(real, tmp_path):
    with pytest.raises(EvaluationError, match="Grey has no 'reconstruct'"):
        evaluation("reconstruction_quality").evaluate(Grey(), real, 0, tmp_path)
    with pytest.raises(EvaluationError, match="Quadrants has no 'sample'"):
        evaluation("sample_quality").evaluate(Quadrants(), real, 0, tmp_path)


def test_wide_features_and_strangers_are_no_extractor():
    wide = Quadrants()
    wide.feature_dim = MAX_WIDTH + 1
    with pytest.raises(EvaluationError, match=r"extractor 'w': its features must be at most 128 wide, .* got 129"):
        Extractor("w", wide, "abc")
    with pytest.raises(EvaluationError, match="extractor 'g': Grey must have 'encode' and 'scores'"):
        Extractor("g", Grey(), "abc")


def test_an_extractor_is_frozen_and_in_eval_mode():
    network = Quadrants().train()
    seen = Extractor("q", network, "abc").see(torch.rand(_subject.BATCH_SIZE + 3, 1, 8, 8))
    assert not network.training
    assert not network.weight.requires_grad
    assert seen.features.shape == (_subject.BATCH_SIZE + 3, 4)
    torch.testing.assert_close(seen.probabilities.sum(1), torch.ones(len(seen.features), dtype=torch.float64))
    assert torch.equal(seen.classes(), seen.features.argmax(1))


def test_the_class_distance_is_the_total_variation():
    def seen(counts):
        classes = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])
        return Seen(torch.randn(len(classes), 2), nn.functional.one_hot(classes, 3).double())

    assert compared(seen([6, 3, 1]), seen([1, 3, 6]), 0)["class_distance"] == pytest.approx(0.5)
    assert compared(seen([10, 0, 0]), seen([0, 5, 5]), 0)["class_distance"] == pytest.approx(1)


def test_samples_have_the_levels_of_a_file():
    levels = as_saved(torch.tensor([0.0, 0.0019, 0.002, 0.5, 1.0])) * 255
    torch.testing.assert_close(levels, torch.tensor([0.0, 0.0, 1.0, 128.0, 255.0]))


def test_inception_without_its_weights_is_refused(real, blob_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(_inception, "RAW", tmp_path / "raw")
    with pytest.raises(
        EvaluationError, match=r"inception: needs inception_v3_google-0cc3c7bd.pth, which is neither in"
    ):
        evaluation("sample_quality", inception=True).evaluate(copies(blob_data), real, 0, tmp_path)
    path = tmp_path / "hub/checkpoints" / _inception.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of something else")
    assert _inception.weights_file() == path
    with pytest.raises(EvaluationError, match=r"0cc3c7bd.pth: sha256 must begin as the name ends; got "):
        _inception.Inception(CPU)
