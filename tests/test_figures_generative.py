"""Pictures of generative methods, of methods made by hand whose pictures are known."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.decomposition import PCA

from mlml import figures_generative
from mlml.figures_generative import (
    COLUMNS,
    manifold,
    principal_components,
    write_classes,
    write_latents,
    write_map,
    write_snapshots,
    write_traversals,
)

CPU = torch.device("cpu")


class Classes:
    """An image of class k is k / 10 all over, plus what is drawn."""

    def sample_classes(self, labels, generator):
        drawn = torch.rand(len(labels), generator=generator) / 100
        return (labels / 10 + drawn)[:, None, None, None].expand(-1, 1, 8, 8)


class Latents:
    """An image's first pixels are its latent vector, squeezed to [0, 1]."""

    def __init__(self, dims):
        self.dims = dims

    def infer(self, images):
        mu = images.flatten(1)[:, : self.dims]
        return mu, torch.zeros_like(mu)

    def decode(self, z):
        images = torch.zeros(len(z), 64)
        images[:, : self.dims] = (z + 5) / 10
        return images.view(-1, 1, 8, 8)


@pytest.fixture
def sheets(monkeypatch):
    """Rows that were asked to be drawn."""
    drawn = {}
    monkeypatch.setattr(figures_generative, "write_sheet", lambda rows, path: drawn.update({path.name: rows}))
    return drawn


def test_each_class_has_a_row_and_each_column_one_draw(sheets, tmp_path):
    write_classes(Classes(), ("zero", "one", "two"), 0, CPU, tmp_path / "classes.png")
    rows = sheets["classes.png"]
    assert list(rows) == ["zero", "one", "two"]
    assert rows["zero"].shape == (COLUMNS, 1, 8, 8)
    np.testing.assert_allclose(rows["two"] - rows["zero"], 0.2, atol=1e-6)  # the draws are the same
    assert len(np.unique(rows["zero"])) == COLUMNS


def test_of_many_classes_the_first_are_shown(sheets, tmp_path):
    write_classes(Classes(), [f"class {k}" for k in range(500)], 0, CPU, tmp_path / "classes.png")
    assert len(sheets["classes.png"]) == figures_generative.MAX_ROWS


def test_the_manifold_has_equal_steps_of_probability():
    points = manifold(4)
    first = norm.ppf([0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(points[:4, 0], first)  # the top row, from left to right
    np.testing.assert_allclose(points[:4, 1], first[-1])
    np.testing.assert_allclose(points[::4, 1], first[::-1])  # the left column, from the top


def test_traversals_move_one_dimension_at_a_time_and_begin_with_what_tells_most(sheets, tmp_path):
    mu = torch.tensor([[0.5, 1.0, -1.0], [0.5, 3.0, -1.2]])  # variances 0, 1 and 0.01
    write_traversals(Latents(3), mu, tmp_path / "t.png")
    rows = sheets["t.png"]
    assert list(rows) == ["z1  1.00", "z2  0.01", "z0  0.00"]
    walked = rows["z2  0.01"].reshape(COLUMNS, 64) * 10 - 5
    np.testing.assert_allclose(walked[:, 2], np.linspace(-3, 3, COLUMNS), atol=1e-5)
    np.testing.assert_allclose(walked[:, :2], np.tile([0.5, 1.0], (COLUMNS, 1)), atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_latents_of_any_width_are_drawn_and_a_manifold_of_two(tmp_path, dims, labelled):
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    write_latents(Latents(dims), images, list("aabbcc") if labelled else [], tmp_path, "seed_0")
    names = {"seed_0_latents.png", "seed_0_traversals.png"} | ({"seed_0_manifold.png"} if dims == 2 else set())
    assert {path.name for path in tmp_path.glob("*.png")} == names


def test_principal_components_are_those_of_scikit_learn():
    mu = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 4.0, 0.5, 2.0, 1.0]) + 3
    found, expected = principal_components(mu).numpy(), PCA(2, svd_solver="full").fit_transform(mu.double().numpy())
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def test_the_map_draws_each_class_in_its_colour(tmp_path):
    mu = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    write_map(mu, ["left"] * 20 + ["right"] * 20, tmp_path / "x.png")
    write_map(mu, ["left"] * 20 + ["right"] * 20, tmp_path / "again.png")
    write_map(mu, [], tmp_path / "plain.png")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "again.png").read_bytes()

    def colours(path):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA"))
        opaque = pixels[pixels[..., 3] == 255][:, :3].astype(int)
        return [int((np.abs(opaque - 255 * np.array(colour)).max(1) <= 1).sum()) for colour in palette]

    palette = figures_generative.PALETTE[:3]
    assert [count > 100 for count in colours(tmp_path / "x.png")] == [True, True, False]
    assert [count > 100 for count in colours(tmp_path / "plain.png")] == [True, False, False]


def test_snapshots_have_a_row_for_each_step(sheets, tmp_path):
    images = np.arange(2 * 3 * 64, dtype=np.uint8).reshape(2, 3, 1, 8, 8)
    write_snapshots([100, 200], images, tmp_path, "seed_0")
    rows = sheets["seed_0_over_training.png"]
    assert list(rows) == ["step 100", "step 200"]
    np.testing.assert_allclose(255 * rows["step 200"], images[1], rtol=1e-6)
    with Image.open(tmp_path / "seed_0_over_training.gif") as moving:
        assert moving.n_frames == 2
