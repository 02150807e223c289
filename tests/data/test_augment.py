"""Every operation against torchvision's, image by image; samplers against torchvision's, by their distributions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from mlml.config import AugmentConfig, DeclarationError, ShiftFlipConfig, parse
from mlml.data import augment, color, spatial

CLOSE = {"rtol": 0, "atol": 1e-5}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(b: int, c: int = 3, h: int = 12, w: int = 12, seed: int = 0) -> torch.Tensor:
    """Noise, and where there is room for them the cases that formulas divide by: black, white, greys, pure colours."""
    images = torch.rand(b, c, h, w, generator=seeded(seed))
    if b > 2:
        images[0] = (images[0] * 2).round() / 2
        images[1] = images[1].mean(0)
        images[2, :, : h // 2], images[2, :, h // 2 :] = 0, 1
    return images


def one_by_one(function, images, *parameters) -> torch.Tensor:
    """Apply torchvision's function to each image with its own parameters."""
    columns = [column.tolist() for column in parameters]
    return torch.stack([function(image, *row) for image, *row in zip(images, *columns, strict=True)])


@settings(max_examples=80, deadline=None)
@given(
    h=st.integers(1, 40), w=st.integers(1, 40), out_h=st.integers(1, 40), out_w=st.integers(1, 40),
    c=st.sampled_from([1, 3]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_resized_crop(h, w, out_h, out_w, c, seed):
    b, generator = 5, seeded(seed)
    height, width = (1 + (torch.rand(b, generator=generator) * size).long() for size in (h, w))
    top, left = ((torch.rand(b, generator=generator) * (size + 1)).long() for size in (h - height, w - width))
    images = torch.rand(b, c, h, w, generator=generator)
    got = spatial.resized_crop(images, spatial.Boxes(top, left, height, width), (out_h, out_w))

    def crop(image, top, left, height, width):
        if out_w == 1:  # torch 2.15 repeats the first row of an output one pixel wide, but not of one pixel high
            return reference.resized_crop(image.mT, left, top, width, height, size=[out_w, out_h], antialias=True).mT
        return reference.resized_crop(image, top, left, height, width, size=[out_h, out_w], antialias=True)

    torch.testing.assert_close(got, one_by_one(crop, images, top, left, height, width), **CLOSE)


def test_the_crop_of_a_large_image_is_as_exact():
    images = pictures(3, 3, 400, 300)
    boxes = spatial.Boxes(*torch.tensor([[0, 150, 399], [7, 0, 0], [400, 250, 1], [293, 300, 300]]))

    def crop(image, *box):
        return reference.resized_crop(image, *box, size=[64, 224], antialias=True)

    got = spatial.resized_crop(images, boxes, (64, 224))
    torch.testing.assert_close(got, one_by_one(crop, images, *boxes), **CLOSE)


def test_a_crop_can_flip_on_its_way():
    images, flipped = pictures(6, 3, 9, 14), torch.tensor([True, False] * 3)
    boxes = spatial.sample_boxes(6, (9, 14), (0.1, 1.0), (0.75, 4 / 3), seeded())
    expected = spatial.flip_horizontal(spatial.resized_crop(images, boxes, (9, 14)), flipped)
    torch.testing.assert_close(spatial.resized_crop(images, boxes, (9, 14), flipped), expected, **CLOSE)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize(
    ("name", "own", "low", "high"),
    [
        ("adjust_brightness", color.adjust_brightness, 0, 3),
        ("adjust_contrast", color.adjust_contrast, 0, 3),
        ("adjust_saturation", color.adjust_saturation, 0, 3),
        ("adjust_hue", color.adjust_hue, -0.5, 0.5),
    ],
)
def test_color(name, own, low, high, c):
    images = pictures(24, c, 8, 11)
    factor = torch.linspace(low, high, 24)
    torch.testing.assert_close(own(images, factor), one_by_one(getattr(reference, name), images, factor), **CLOSE)


@given(rgb=st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=1, max_size=8), turns=st.floats(-0.5, 0.5))
@settings(max_examples=60, deadline=None)
def test_hue_at_the_corners_of_the_wheel(rgb, turns):
    images = torch.tensor(rgb).float().T[None, :, :, None] / 8
    got = color.adjust_hue(images, torch.tensor([turns], dtype=torch.float32))
    torch.testing.assert_close(got, reference.adjust_hue(images, turns), **CLOSE)


@pytest.mark.parametrize("c", [1, 3])
def test_greyscale(c):
    images, applied = pictures(6, c), torch.tensor([True, False] * 3)
    grey = reference.rgb_to_grayscale(images, num_output_channels=c)
    got = color.greyscale(images, applied)
    torch.testing.assert_close(got[applied], grey[applied], **CLOSE)
    assert torch.equal(got[~applied], images[~applied])


@pytest.mark.parametrize("c", [1, 3])
def test_color_jitter_in_every_order(c):
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(row)) == 4 for row in orders.tolist()]]  # (24, 4)
    images = pictures(24, c)
    strengths = (0.8, 0.8, 0.8, 0.2)
    factors = color.sample_jitter(strengths, torch.ones(24, dtype=torch.bool), seeded()).factors
    functions = [getattr(reference, f"adjust_{name}") for name in ("brightness", "contrast", "saturation", "hue")]
    expected = []
    for image, factor, order in zip(images, factors.tolist(), orders.tolist(), strict=True):
        for operation in order:
            image = functions[operation](image, factor[operation])
        expected.append(image)
    got = color.color_jitter(images, color.Jitter(factors, orders))
    torch.testing.assert_close(got, torch.stack(expected), **CLOSE)
    reversed_orders = color.color_jitter(images, color.Jitter(factors, orders.flip(1)))
    assert (got - reversed_orders).abs().amax((1, 2, 3)).median() > 1e-3  # the order is felt


def test_images_that_are_not_jittered_stay_the_same():
    applied = torch.tensor([True, False] * 4)
    images = pictures(8)
    got = color.color_jitter(images, color.sample_jitter((0.8, 0.8, 0.8, 0.2), applied, seeded()))
    torch.testing.assert_close(got[~applied], images[~applied], **CLOSE)
    assert not torch.allclose(got[applied], images[applied], atol=1e-2)


@pytest.mark.parametrize(("c", "h", "w", "kernel"), [(3, 12, 12, 3), (1, 9, 14, 7), (3, 12, 30, 23), (1, 5, 5, 1)])
def test_gaussian_blur(c, h, w, kernel):
    images, sigma = pictures(8, c, h, w), torch.linspace(0.1, 2, 8)
    applied = torch.arange(8) % 4 > 0

    def blur(image, sigma):
        return reference.gaussian_blur(image, [kernel, kernel], [sigma, sigma])

    got = spatial.gaussian_blur(images, kernel, sigma, applied)
    torch.testing.assert_close(got[applied], one_by_one(blur, images, sigma)[applied], **CLOSE)
    assert torch.equal(got[~applied], images[~applied])


@pytest.mark.parametrize("kernel", [4, 25])
def test_a_kernel_that_cannot_be_is_refused(kernel):
    with pytest.raises(ValueError, match=f"odd and less than twice the image's side \\(12\\); got {kernel}"):
        spatial.gaussian_blur(pictures(2), kernel, torch.ones(2), torch.ones(2, dtype=torch.bool))


def test_flips():
    images, flipped = pictures(4, 3, 5, 7), torch.tensor([True, False, False, True])
    for own, theirs in (
        (spatial.flip_horizontal, reference.horizontal_flip),
        (spatial.flip_vertical, reference.vertical_flip),
    ):
        got = own(images, flipped)
        assert torch.equal(got[flipped], theirs(images)[flipped])
        assert torch.equal(got[~flipped], images[~flipped])


def test_rotate90():
    images, turns = pictures(10, 3, 7, 7), torch.arange(10) - 3
    got = spatial.rotate90(images, turns)
    assert torch.equal(got, one_by_one(lambda image, k: torch.rot90(image, k, (1, 2)), images, turns))
    with pytest.raises(ValueError, match="must be square; got 5x7"):
        spatial.rotate90(pictures(1, 3, 5, 7), turns[:1])


@pytest.mark.parametrize(("h", "w"), [(8, 8), (5, 9), (12, 7), (1, 3)])
def test_rotate(h, w):
    degrees = torch.tensor([0.0, 90, 180, 270, -90, 360, 30, 45.5, -17.25, 123, 359.9, 721])
    images = pictures(12, 3, h, w)

    def turn(image, angle):
        return reference.rotate(image, angle, interpolation=v2.InterpolationMode.BILINEAR)

    torch.testing.assert_close(spatial.rotate(images, degrees), one_by_one(turn, images, degrees), **CLOSE)


def test_rotate_goes_the_way_of_rotate90():
    images, turns = pictures(4, 3, 7, 7), torch.arange(4)
    torch.testing.assert_close(spatial.rotate(images, 90.0 * turns), spatial.rotate90(images, turns), **CLOSE)


@pytest.mark.parametrize("c", [1, 3])
def test_solarise(c):
    images, applied = pictures(12, c), torch.arange(12) % 3 > 0
    threshold = torch.linspace(0, 1, 12)
    got = color.solarise(images, threshold, applied)
    expected = one_by_one(reference.solarize, images, threshold)
    torch.testing.assert_close(got[applied], expected[applied], **CLOSE)
    assert torch.equal(got[~applied], images[~applied])
    assert not torch.allclose(got[4], images[4])  # the threshold of 0.36 is felt


def test_solarisation_comes_last_and_is_drawn_where_it_is_declared_only():
    images, config = pictures(64, 3, 16, 16), AugmentConfig(solarise_prob=0.4, solarise_threshold=0.3)
    generator, other = seeded(), seeded()
    without = augment.simclr_view(images, AugmentConfig(), generator)
    view = augment.simclr_view(images, config, other)
    applied = torch.rand(64, generator=generator) < 0.4  # the one draw more
    torch.testing.assert_close(view, color.solarise(without, torch.full((64,), 0.3), applied), **CLOSE)
    assert torch.equal(generator.get_state(), other.get_state())
    many = augment.simclr_sample(torch.zeros(20_000, 1, 8, 8), config, seeded()).solarised
    assert float(many.applied.float().mean()) == pytest.approx(0.4, abs=0.015)


def test_a_view_has_the_size_that_is_asked_for():
    images, config = pictures(8, 3, 60, 40), AugmentConfig(blur_prob=1.0)
    boxes, flipped, jitter, grey, blur, _ = augment.simclr_sample(images, config, seeded(), (24, 20))
    assert blur.kernel_size == 3  # a tenth of the 24 pixels that go out
    view = color.color_jitter(spatial.resized_crop(images, boxes, (24, 20), flipped), jitter)
    view = spatial.gaussian_blur(color.greyscale(view, grey), *blur)
    torch.testing.assert_close(augment.simclr_view(images, config, seeded(), (24, 20)), view, **CLOSE)


@pytest.mark.parametrize(("h", "w"), [(6, 6), (5, 9)])
def test_shift_is_a_crop_of_the_padded_image(h, w):
    p, images = 3, pictures(49, 3, h, w)
    down, right = torch.cartesian_prod(torch.arange(-p, p + 1), torch.arange(-p, p + 1)).T
    flipped = torch.arange(49) % 2 == 0

    def crop(image, down, right, flipped):
        image = reference.horizontal_flip(image) if flipped else image
        return reference.crop(reference.pad(image, [p] * 4), p - down, p - right, h, w)

    expected = one_by_one(crop, images, down, right, flipped)
    assert torch.equal(spatial.shift(images, down, right, flipped), expected)


def torchvision_boxes(h, w, scale, ratio, count=1500) -> torch.Tensor:
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(8, scale, ratio), torch.zeros(1, h, w)
    boxes = [crop.make_params([image]) for _ in range(count)]
    return torch.tensor([[box[key] for key in ("top", "left", "height", "width")] for box in boxes])


@pytest.mark.parametrize(
    ("h", "w", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (20, 60, (0.3, 0.9), (0.5, 1.0)),  # most boxes do not fit: many attempts, and the fallback
        (60, 11, (0.5, 1.0), (3 / 4, 4 / 3)),  # the fallback only
    ],
)
def test_boxes_are_distributed_as_torchvisions(h, w, scale, ratio):
    theirs = torchvision_boxes(h, w, scale, ratio)
    ours = torch.stack(spatial.sample_boxes(20_000, (h, w), scale, ratio, seeded()), 1)
    top, left, height, width = ours.T
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] > 0).all()
    assert (top + height <= h).all()
    assert (left + width <= w).all()
    derived = [
        (boxes[:, 2] * boxes[:, 3], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]) for boxes in (ours, theirs)
    ]
    for mine, other in zip((*ours.T, *derived[0]), (*theirs.T, *derived[1]), strict=True):
        assert ks_2samp(mine.numpy(), other.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("scale", [0.08, 0.37, 0.61, 1.0])
@pytest.mark.parametrize("ratio", [0.76, 1.0, 1.21])
def test_the_size_of_a_box_is_rounded_as_torchvisions(scale, ratio):
    crop = v2.RandomResizedCrop(8, (scale, scale), (ratio, ratio))
    theirs = crop.make_params([torch.zeros(1, 28, 33)])
    boxes = spatial.sample_boxes(5, (28, 33), (scale, scale), (ratio, ratio), seeded())
    assert boxes.height.tolist() == [theirs["height"]] * 5
    assert boxes.width.tolist() == [theirs["width"]] * 5


def test_jitter_is_distributed_as_torchvisions():
    strengths = (0.4, 1.5, 0.8, 0.2)  # 1.5: the factor's range is cut at 0
    torch.manual_seed(0)
    draws = [v2.ColorJitter(*strengths).make_params([]) for _ in range(1500)]
    ours = color.sample_jitter(strengths, torch.ones(20_000, dtype=torch.bool), seeded())
    for k, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        theirs = [draw[f"{name}_factor"] for draw in draws]
        assert ks_2samp(ours.factors[:, k].numpy(), theirs).pvalue > 1e-3
    counts = (ours.order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == math.factorial(4)
    expected = 20_000 / 24
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 49.7  # 0.999 quantile at 23 degrees of freedom
    drawn = torch.cat([ours.factors, ours.order], 1).T.corrcoef()[:5, :5]
    assert (drawn - torch.eye(5)).abs().max() < 0.03  # drawn independently of each other


def test_views_happen_as_often_as_declared():
    config = AugmentConfig(flip_prob=0.3, jitter_prob=0.6, grey_prob=0.1, blur_prob=0.45, blur_sigma=(0.5, 1.5))
    drawn = augment.simclr_sample(torch.zeros(20_000, 3, 32, 32), config, seeded())
    jittered = (drawn.jitter.factors != torch.tensor([1.0, 1, 1, 0])).any(1)
    chosen = torch.stack([drawn.flipped, jittered, drawn.grey, drawn.blur.applied]).float()
    torch.testing.assert_close(chosen.mean(1), torch.tensor([0.3, 0.6, 0.1, 0.45]), rtol=0, atol=0.015)
    assert (chosen.corrcoef() - torch.eye(4)).abs().max() < 0.03
    sigma = drawn.blur.sigma
    assert ks_2samp(sigma.numpy(), torch.linspace(0.5, 1.5, 2000).numpy()).pvalue > 1e-3
    assert drawn.blur.kernel_size == 3  # a tenth of 32, made odd


def test_a_view_is_the_operations_one_after_the_other():
    images, config = pictures(16, 3, 32, 32), AugmentConfig()
    boxes, flipped, jitter, grey, blur, solarised = augment.simclr_sample(images, config, seeded())
    assert solarised is None
    view = spatial.flip_horizontal(spatial.resized_crop(images, boxes, (32, 32)), flipped)
    view = color.greyscale(color.color_jitter(view, jitter), grey)
    view = spatial.gaussian_blur(view, *blur)
    torch.testing.assert_close(augment.simclr_view(images, config, seeded()), view, **CLOSE)


@pytest.mark.parametrize("c", [1, 3])
def test_views_come_from_the_generator_alone(c):
    images, config = pictures(8, c, 20, 20), AugmentConfig()
    before = images.clone()
    first, second = augment.simclr_views(images, config, seeded(1))
    torch.manual_seed(3)  # what other code draws does not matter
    again, _ = augment.simclr_views(images, config, seeded(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, augment.simclr_view(images, config, seeded(2)))
    assert torch.equal(images, before)
    assert first.shape == images.shape
    assert first.is_contiguous()
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-5


@pytest.mark.parametrize("c", [1, 3])
def test_an_image_does_not_feel_the_others(c):
    images, config = pictures(8, c, 16, 16), AugmentConfig()
    parameters = augment.simclr_sample(images, config, seeded())
    whole = augment.simclr_apply(images, parameters)
    others = pictures(8, c, 16, 16, seed=1)
    others[3] = images[3]
    torch.testing.assert_close(augment.simclr_apply(others, parameters)[3], whole[3], **CLOSE)


def test_what_is_not_declared_is_not_done():
    images = pictures(8, 3, 16, 16)
    config = AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_prob=0, grey_prob=0, blur_prob=0)
    torch.testing.assert_close(augment.simclr_view(images, config, seeded()), images, **CLOSE)
    assert augment.shift_flip(images, ShiftFlipConfig(padding=0, flip_prob=0), seeded()) is images


def test_shift_flip_reaches_every_place_equally():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 1] = 1
    views = augment.shift_flip(image.repeat(30_000, 1, 1, 1), ShiftFlipConfig(padding=1, flip_prob=0.25), seeded())
    share = views.mean(0)[0]
    expected = torch.zeros(5, 5)
    expected[1:4, 0:3] += 0.75 / 9
    expected[1:4, 2:5] += 0.25 / 9
    torch.testing.assert_close(share, expected, rtol=0, atol=0.006)
    assert torch.equal(views.sum((1, 2, 3)), torch.ones(30_000))


def test_nothing_waits_for_the_device():
    """Reading a value on the host, or a shape that depends on values, is an error on fake tensors."""
    with FakeTensorMode():
        images, generator = torch.zeros(4, 3, 32, 32), torch.Generator()
        made = [
            *augment.simclr_views(images, AugmentConfig(), generator),
            augment.shift_flip(images, ShiftFlipConfig(), generator),
            spatial.rotate90(images, torch.zeros(4, dtype=torch.long)),
            spatial.rotate(images, torch.zeros(4)),
            augment.simclr_view(images, AugmentConfig(solarise_prob=0.2), generator),
        ]
    assert [value.shape for value in made] == [(4, 3, 32, 32)] * 6


def test_a_view_compiles_whole():
    images, config = pictures(4, 3, 16, 16), AugmentConfig()
    parameters = augment.simclr_sample(images, config, seeded())
    compiled = torch.compile(augment.simclr_apply, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images, parameters), augment.simclr_apply(images, parameters))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"crop_scale": [0.5, 0.2]}, "low <= high; got [0.5, 0.2]"),
        ({"crop_scale": [0, 1]}, "a.crop_scale.0"),
        ({"blur_kernel": 4}, "must be odd; got 4"),
        ({"hue": 0.6}, "a.hue"),
        ({"flip_prop": 0.5}, "did you mean 'flip_prob'"),
    ],
)
def test_a_wrong_number_is_named(values, fault):
    with pytest.raises(DeclarationError) as error:
        parse(AugmentConfig, values, "a")
    assert fault in str(error.value)
