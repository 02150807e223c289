"""The fused form against the exact one, of the same draws: equal where nothing clamps and hue turns by thirds."""

import itertools

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch._subclasses.fake_tensor import FakeTensorMode

from mlml.config import AugmentConfig, DeclarationError, MultiCropConfig, parse
from mlml.data import augment, color, fused
from mlml.data.multicrop import multi_crop

CLOSE = {"rtol": 0, "atol": 1e-5}
ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4)
SPATIAL = {"jitter_prob": 0, "grey_prob": 0}
MILD = {"brightness": 0.15, "contrast": 0.15, "saturation": 0.15, "jitter_prob": 1.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(b: int = 24, c: int = 3, h: int = 16, w: int = 16, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return torch.rand(b, c, h, w, generator=seeded(7)) * (high - low) + low


def photographs(side: int = 32) -> torch.Tensor:
    """Tiles of two photographs at half their size, (120, 3, 32, 32)."""
    pictures = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2) / 255
    tiles = torch.nn.functional.avg_pool2d(pictures, 2).unfold(2, side, side).unfold(3, side, side)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def both(images, parameters, size=None) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(augment.simclr_apply(images, parameters, size, form) for form in ("exact", "fused"))


def in_every_order(images, config, turns: float) -> augment.SimCLRParameters:
    """Draws for 24 images, each with an order of its own and the same turn of hue, forwards and backwards."""
    drawn = augment.simclr_sample(images, config, seeded())
    factors = drawn.jitter.factors.clone()
    factors[:, color.HUE] = turns * (-1.0) ** torch.arange(24)
    return drawn._replace(jitter=color.Jitter(factors, ORDERS))


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize(
    ("h", "w", "size", "kernel"),
    [(32, 32, None, 3), (12, 30, None, 23), (40, 28, (24, 20), 5), (9, 14, (20, 33), 7), (5, 5, (5, 5), 1)],
)
def test_space_is_exact(c, h, w, size, kernel):
    images = noise(24, c, h, w)
    config = AugmentConfig(**SPATIAL, blur_kernel=kernel, blur_prob=0.7)
    exact, got = both(images, augment.simclr_sample(images, config, seeded(), size), size)
    torch.testing.assert_close(got, exact, **CLOSE)
    assert got.shape == (24, c, *(size or (h, w)))
    assert got.is_contiguous()


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("turns", [0.0, 1 / 3])
def test_color_is_exact_in_every_order_where_nothing_clamps(c, turns):
    """The blur, too, is at its place: contrast refers to the mean before it."""
    images = noise(24, c, low=0.4, high=0.6)
    images[:, -1] += 0.05  # of one hue, so that saturation moves the mean
    drawn = in_every_order(images, AugmentConfig(**MILD, grey_prob=0.3, blur_kernel=5, blur_prob=0.7), turns)
    exact, got = both(images, drawn)
    torch.testing.assert_close(got, exact, **CLOSE)
    assert exact.min() > 0.01
    assert exact.max() < 0.99
    backwards = drawn._replace(jitter=color.Jitter(drawn.jitter.factors, ORDERS.flip(1)))
    felt = (both(images, backwards)[1] - got).abs().max() > 1e-4
    assert felt == (c == 3 and turns != 0)  # without clamps, it is hue alone whose place matters


def test_grey_alone_is_exact():
    images = noise()
    config = AugmentConfig(jitter_prob=0, grey_prob=0.5)
    exact, got = both(images, augment.simclr_sample(images, config, seeded()))
    torch.testing.assert_close(got, exact, **CLOSE)


@pytest.mark.parametrize("turns", [1 / 3, -1 / 3])
def test_a_third_of_a_turn_is_that_of_the_exact_form(turns):
    images = noise()
    expected = color.adjust_hue(images, torch.full((24,), turns))
    matrix = fused.hue_rotation(torch.tensor([turns]), 3)
    torch.testing.assert_close(torch.einsum("ij,bjhw->bihw", matrix[0], images), expected, **CLOSE)


def test_hue_turns_about_the_greys():
    turns = torch.linspace(-0.5, 0.5, 21)
    matrices = fused.hue_rotation(turns, 3)
    torch.testing.assert_close(fused.hue_rotation(torch.zeros(1), 3)[0], torch.eye(3), **CLOSE)
    torch.testing.assert_close(matrices @ torch.ones(3), torch.ones(21, 3), **CLOSE)
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(21, 3, 3), **CLOSE)
    torch.testing.assert_close(matrices @ matrices, fused.hue_rotation(2 * turns, 3), **CLOSE)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(21), **CLOSE)


def test_a_small_turn_goes_the_way_of_the_exact_form():
    images, turns = noise(), torch.linspace(-0.1, 0.1, 24)
    exact = color.adjust_hue(images, turns) - images
    got = torch.einsum("bij,bjhw->bihw", fused.hue_rotation(turns, 3), images) - images
    assert torch.cosine_similarity(exact.flatten(1), got.flatten(1)).min() > 0.7


@pytest.mark.parametrize("c", [1, 3])
def test_views_stay_in_their_range(c):
    config = AugmentConfig(brightness=2, contrast=2, saturation=2, hue=0.5, form="fused", blur_prob=0)
    views = augment.simclr_view(noise(64, c), config, seeded())
    assert views.min() == 0
    assert views.max() == 1


def test_on_one_channel_colours_do_nothing():
    images = noise(c=1)
    config = AugmentConfig(brightness=0, contrast=0, saturation=0.8, hue=0.5, jitter_prob=1, grey_prob=0.5)
    drawn = augment.simclr_sample(images, config, seeded())
    plain = augment.simclr_apply(images, drawn._replace(jitter=None, grey=None))
    torch.testing.assert_close(augment.simclr_apply(images, drawn, form="fused"), plain, **CLOSE)


@pytest.mark.parametrize("c", [1, 3])
def test_an_image_does_not_feel_the_others(c):
    images, others = noise(8, c), noise(8, c).flip(0)
    others[3] = images[3]
    before = images.clone()
    drawn = augment.simclr_sample(images, AugmentConfig(jitter_prob=1.0), seeded())
    whole = augment.simclr_apply(images, drawn, form="fused")
    torch.testing.assert_close(augment.simclr_apply(others, drawn, form="fused")[3], whole[3], **CLOSE)
    assert torch.equal(images, before)


def test_both_forms_draw_the_same():
    images, generators = noise(), (seeded(), seeded())
    exact, got = (
        augment.simclr_views(images, AugmentConfig(form=form, solarise_prob=0.3), generator)
        for form, generator in zip(("exact", "fused"), generators, strict=True)
    )
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    drawn = augment.simclr_sample(images, AugmentConfig(solarise_prob=0.3), seeded())
    assert torch.equal(got[0], augment.simclr_apply(images, drawn, form="fused"))
    assert not torch.allclose(got[0], exact[0], atol=1e-3)


def test_solarisation_follows():
    images = noise()
    drawn = augment.simclr_sample(images, AugmentConfig(solarise_prob=0.5), seeded())
    without = augment.simclr_apply(images, drawn._replace(solarised=None), form="fused")
    got = augment.simclr_apply(images, drawn, form="fused")
    assert torch.equal(got, color.solarise(without, *drawn.solarised))
    assert not torch.equal(got, without)


def test_each_crop_has_its_own_form():
    images = noise(4)
    plain = {"first": AugmentConfig(), "second": AugmentConfig(), "local": AugmentConfig(), "num_local": 2}
    wide, local = multi_crop(images, MultiCropConfig(**plain), (8, 8), seeded())
    mixed = MultiCropConfig(**plain | {"second": AugmentConfig(form="fused")})
    got_wide, got_local = multi_crop(images, mixed, (8, 8), seeded())
    assert torch.equal(got_wide[:, 0], wide[:, 0])
    assert not torch.equal(got_wide[:, 1], wide[:, 1])
    assert torch.equal(got_local, local)


def test_how_far_views_of_photographs_are_from_the_exact_form():
    """At SimCLR's strengths; docs/methods.md has these numbers."""
    images = photographs()

    def distances(config: AugmentConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each exact view from its fused one, and from its image."""
        found = []
        for seed in range(5):
            exact, got = both(images, augment.simclr_sample(images, config, seeded(seed)))
            found.append(torch.stack([exact - got, exact - images]).abs().mean((2, 3, 4)))
        return torch.cat(found, 1).unbind(0)

    of_forms, of_view = distances(AugmentConfig())
    assert of_forms.mean() < 0.018
    assert of_forms.median() < 0.01
    assert of_view.mean() > 0.155
    assert distances(AugmentConfig(hue=0))[0].mean() < 0.0045


def test_a_kernel_that_cannot_be_is_refused():
    images = noise(2, w=40)
    drawn = augment.simclr_sample(images, AugmentConfig(blur_kernel=33), seeded())
    with pytest.raises(ValueError, match=r"odd and less than twice the image's side \(16\); got 33"):
        augment.simclr_apply(images, drawn, form="fused")


def test_nothing_waits_for_the_device():
    """Reading a value on the host, or a shape that depends on values, is an error on fake tensors."""
    with FakeTensorMode():
        config = AugmentConfig(form="fused", solarise_prob=0.2)
        views = augment.simclr_views(torch.zeros(4, 3, 32, 32), config, torch.Generator())
    assert [view.shape for view in views] == [(4, 3, 32, 32)] * 2


def test_a_view_compiles_whole():
    images = noise(4)
    drawn = augment.simclr_sample(images, AugmentConfig(), seeded())
    compiled = torch.compile(augment.simclr_apply, fullgraph=True, backend="eager")
    expected = augment.simclr_apply(images, drawn, form="fused")
    torch.testing.assert_close(compiled(images, drawn, form="fused"), expected)


def test_an_unknown_form_is_refused():
    with pytest.raises(DeclarationError, match=r"a\.form: unknown value 'fast' \(known: exact, fused\)"):
        parse(AugmentConfig, {"form": "fast"}, "a")
