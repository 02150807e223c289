"""Drawing from a trained method, and the commands that do it."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from specs import make_spec
from torch import nn

from mlml import model_folder
from mlml.drawing import DrawingError, draw, edit, read_image, write_image
from pipelines.cli import main

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [8]}, "train": {"steps": 1}, "latent_dim": 3}


class Able(nn.Module):
    """Can do everything, and tells what it was asked for."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.weight, self.asked, self.steps = spec, nn.Parameter(torch.zeros(1)), [], 9

    @contextmanager
    def in_steps(self, steps):
        if steps > 100:
            raise ValueError("sampler.steps must be at most timesteps, 100; got 101")
        self.steps = steps
        yield
        self.steps = 9

    def sample(self, num_samples, generator):
        self.asked.append((num_samples, self.steps))
        return torch.rand(num_samples, 1, 8, 8, generator=generator)

    def sample_classes(self, labels, generator):
        self.asked.append(labels.tolist())
        return torch.rand(len(labels), 1, 8, 8, generator=generator)

    def sample_texts(self, texts, generator):
        self.asked.append(texts)
        if "unicorn" in texts[0]:
            raise ValueError("no caption has the word 'unicorn'")
        return torch.rand(len(texts), 1, 8, 8, generator=generator)

    def edit(self, images, masks, texts, generator):
        self.asked.append(texts)
        return torch.where(masks[:, None], torch.rand(images.shape, generator=generator), images)


@pytest.fixture
def able():
    return Able(make_spec(classes=("zero", "one", "7")))


def test_the_same_seed_draws_the_same_bits(able):
    one, same, other = (draw(able, 70, seed) for seed in (0, 0, 1))
    assert one.shape == (70, 1, 8, 8)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert able.asked[:2] == [(64, 9), (6, 9)]


def test_what_is_asked_for_is_handed_on(able):
    draw(able, 2, 0, steps=50)
    draw(able, 2, 0)
    draw(able, 2, 0, label="one")
    draw(able, 2, 0, label="0")
    draw(able, 2, 0, label="7")  # a name comes before a number
    draw(able, 2, 0, text="a red circle")
    assert able.asked == [(2, 50), (2, 9), [1, 1], [0, 0], [2, 2], ["a red circle"] * 2]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"label": "on"}, "no class 'on'; did you mean 'one'?"),
        ({"label": "3"}, "no class '3'"),
        ({"text": "a unicorn"}, "no caption has the word 'unicorn'"),
        ({"label": "one", "text": "t"}, "give one of a class and a text, not both"),
        ({"steps": 101}, "sampler.steps must be at most timesteps, 100; got 101"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(able, asked, said):
    with pytest.raises(DrawingError) as caught:
        draw(able, 1, 0, **asked)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "Unable draws no images: it has no 'sample'"),
        ({"label": "one"}, "Unable draws no images of a class: it has no 'sample_classes'"),
        ({"text": "t"}, "Unable draws no images of a text: it has no 'sample_texts'"),
    ],
)
def test_a_method_that_cannot_says_so(able, asked, said):
    class Unable(nn.Module):
        spec = able.spec

    with pytest.raises(DrawingError, match=said):
        draw(Unable(), 1, 0, **asked)
    with pytest.raises(DrawingError, match="Unable edits no images: it has no 'edit'"):
        edit(Unable(), torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), "t", 0)


def test_an_edit_leaves_what_the_mask_leaves(able):
    image, mask = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    found = edit(able, image, mask, "a circle", 3)
    assert torch.equal(found[..., 4:], image[..., 4:])
    assert not torch.equal(found, image)
    assert torch.equal(found, edit(able, image, mask, "a circle", 3))
    assert able.asked == [["a circle"]] * 2


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_read_as_it_was_written(tmp_path, channels):
    method = Able(make_spec(channels=channels, height=8, width=6))
    image = torch.randint(256, (channels, 8, 6), generator=torch.Generator().manual_seed(0)) / 255
    write_image(image, tmp_path / "deep/image.png")
    assert torch.equal(read_image(tmp_path / "deep/image.png", method)[0], image)
    assert read_image(tmp_path / "deep/image.png", method, channels=1).shape == (1, 1, 8, 6)


def test_files_that_do_not_fit_are_refused(able, tmp_path):
    write_image(torch.zeros(1, 8, 9), tmp_path / "wide.png")
    with pytest.raises(DrawingError, match=r"wide.png: must be 8 x 8 pixels, as .* got 9 x 8"):
        read_image(tmp_path / "wide.png", able)
    (tmp_path / "none.png").write_text("no image")
    for name in ("none.png", "absent.png"):
        with pytest.raises(DrawingError, match=f"{name}: is no image that can be read"):
            read_image(tmp_path / name, able)
    with pytest.raises(DrawingError, match=r"bright.png: values must be in \[0, 1\]; got 2.0 to 2.0"):
        write_image(torch.full((1, 2, 2), 2.0), tmp_path / "bright.png")


@pytest.fixture
def project(tmp_path, blob_data, monkeypatch):
    """A project with a trained VAE."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    method = model_folder.build("generative", "vae", CONFIG, blob_data.spec)
    model_folder.save(tmp_path / "models/vae/seed_4", "generative", "vae", method)
    return tmp_path


def test_mlml_sample(project, capsys):
    for out in ("one", "same"):
        main(["sample", "vae", "--count", "12", "--seed", "0", "--out", out])
    assert "grid.png, and 12 images beside it" in capsys.readouterr().out
    names = {path.name for path in (project / "one").iterdir()}
    assert names == {f"{number:02}.png" for number in range(12)} | {"grid.png"}
    for name in names:
        assert (project / "one" / name).read_bytes() == (project / "same" / name).read_bytes()
    drawn = draw(model_folder.load(project / "models/vae/seed_4"), 12, 0)
    with Image.open(project / "one/03.png") as image:
        assert np.array_equal(np.asarray(image), np.rint(255 * drawn[3, 0].numpy()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "vea"], "mlml sample: models/vea: does not exist; did you mean 'vae'? (known: vae); run"),
        (["sample", "vae", "--model-seed", "1"], "mlml sample: models/vae: has no seed 1; take one of 4"),
        (["sample", "vae", "--class", "3"], "mlml sample: VAE draws no images of a class: it has no 'sample_classes'"),
        (["sample", "vae", "--text", "t"], "mlml sample: VAE draws no images of a text: it has no 'sample_texts'"),
        (["sample", "vae", "--steps", "3"], "mlml sample: VAE takes no steps to draw an image; leave 'steps' out"),
        (
            ["edit", "vae", "--image", "models", "--mask", "m.png", "--text", "t"],
            "mlml edit: models: is no image that can be read (IsADirectoryError)",
        ),
    ],
)
def test_the_commands_refuse_in_one_sentence(project, capsys, words, said):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1


def test_mlml_edit(project, capsys, able, monkeypatch):
    monkeypatch.setattr(model_folder, "load", lambda _: able)
    write_image(torch.full((1, 8, 8), 0.2), project / "image.png")
    mask = torch.zeros(1, 8, 8)
    mask[:, 4:] = 0.9  # grey is white from a half on
    write_image(mask, project / "mask.png")
    main(["edit", "vae", "--image", "image.png", "--mask", "mask.png", "--text", "a circle"])
    assert capsys.readouterr().out.strip() == "samples/vae_edited.png"
    edited = read_image(project / "samples/vae_edited.png", able)[0, 0]
    assert (edited[:4] == 0.2).all()
    assert not (edited[4:] == 0.2).all()
