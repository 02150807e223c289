import numpy as np
import pytest
import torch
from blobs import CAPTIONS
from PIL import Image

from mlml import figures_diffusion
from mlml.data.batches import split_batches

CPU = torch.device("cpu")


def images(count, seed=0):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [2, 4096])
def test_the_nearest_image_is_the_slow_minimum(chunk, monkeypatch):
    monkeypatch.setattr(figures_diffusion, "CHUNK", chunk)
    samples = images(3)
    train = np.random.default_rng(0).integers(0, 256, (7, 1, 4, 4)).astype(np.uint8)
    train[5] = (samples[1] * 255).round().numpy()
    places, distances = figures_diffusion.nearest(samples, train)
    for sample, place, distance in zip(samples.double().numpy(), places.tolist(), distances.tolist(), strict=True):
        every = [np.sqrt(((sample - image / 255) ** 2).mean()) for image in train]
        assert place == int(np.argmin(every))
        assert distance == pytest.approx(min(every), rel=1e-4, abs=1e-6)
    assert places[1] == 5
    assert distances[1] < 0.005


def test_each_sample_stands_above_its_neighbour(tmp_path):
    train = np.zeros((2, 1, 4, 4), np.uint8)
    train[1] = 255
    figures_diffusion.write_nearest(
        torch.tensor([0.9, 0.2]).view(2, 1, 1, 1).expand(2, 1, 4, 4), train, tmp_path / "n.png"
    )
    picture = np.asarray(Image.open(tmp_path / "n.png"))[..., 0]
    assert picture.shape == (56 + 2 + 56, 56 + 4 + 56)
    assert [picture[0, 0], picture[0, -1], picture[-1, 0], picture[-1, -1]] == [230, 51, 255, 0]


class Told:
    """A method that paints what it is told: grey of the scale, or of the text's place among the captions."""

    def film(self, given, num_frames, generator):
        return given[:, None].expand(-1, num_frames, -1, -1, -1), torch.zeros(len(given), num_frames, 1, 8, 8)

    def sample_guided(self, num_samples, guidance_scale, generator):
        return torch.full((num_samples, 1, 8, 8), guidance_scale / 8)

    def sample_texts(self, texts, generator, guidance_scale=None):
        return torch.stack([torch.full((1, 8, 8), CAPTIONS.index(text) / 4) for text in texts])

    def edit(self, given, masks, texts, generator):
        return torch.where(masks[:, None], self.sample_texts(texts, generator), given)


def test_pictures_are_written_with_their_captions(blob_data, tmp_path):
    test = split_batches(blob_data, "test", 16, 0, CPU)
    captions = blob_data.split("test").captions
    figures_diffusion.write_film(Told(), test, 0, tmp_path / "film")
    figures_diffusion.write_guidance(Told(), 3, 0, CPU, tmp_path / "guidance.png")
    figures_diffusion.write_texts(Told(), captions, 0, CPU, tmp_path, "of")
    figures_diffusion.write_edits(Told(), test, captions, 0, tmp_path / "edits.png")
    names = [
        "edits.png",
        "edits.txt",
        "film_forward.png",
        "film_reverse.gif",
        "film_reverse.png",
        "guidance.png",
        "of_texts.png",
        "of_texts.txt",
    ]
    assert sorted(path.name for path in tmp_path.glob("*.*")) == names
    guidance = np.asarray(Image.open(tmp_path / "guidance.png"))[..., 0]
    assert guidance[::60, 0].tolist() == [round(255 * scale / 8) for scale in figures_diffusion.SCALES]
    assert guidance.shape[1] == 3 * 60 - 4
    edits = np.asarray(Image.open(tmp_path / "edits.png"))[..., 0]
    texts = (tmp_path / "edits.txt").read_text().splitlines()
    for column, text in enumerate(texts):
        assert edits[2 * 60 + 28, 60 * column + 28] == round(255 * CAPTIONS.index(text) / 4)
        assert edits[60 + 28, 60 * column + 28] == 128
        assert edits[0, 60 * column] == edits[60, 60 * column] == edits[120, 60 * column]
    assert (tmp_path / "of_texts.txt").read_text().splitlines() == captions[::3][:8]
