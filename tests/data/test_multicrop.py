import pytest
import torch

from mlml import distributed
from mlml.config import AugmentConfig, DeclarationError, MultiCropConfig, parse
from mlml.data.augment import simclr_apply, simclr_sample
from mlml.data.multicrop import multi_crop


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(b: int = 4, c: int = 3) -> torch.Tensor:
    return torch.rand(b, c, 24, 20, generator=seeded(9))


def test_the_crops_of_an_image_are_its_own_views():
    config, pixels, generator = MultiCropConfig(num_local=3), images(), seeded()
    crops = multi_crop(pixels, config, (10, 8), seeded())
    assert crops.wide.shape == (4, 2, 3, 24, 20)
    assert crops.local.shape == (4, 3, 3, 10, 8)
    for k, view in enumerate((config.first, config.second)):
        expected = simclr_apply(pixels, simclr_sample(pixels, view, generator))
        torch.testing.assert_close(crops.wide[:, k], expected, rtol=0, atol=1e-5)
    copies = torch.stack([image for image in pixels for _ in range(3)])
    expected = simclr_apply(copies, simclr_sample(copies, config.local, generator, (10, 8)), (10, 8))
    torch.testing.assert_close(crops.local.flatten(0, 1), expected, rtol=0, atol=1e-5)


def test_local_crops_show_small_parts_and_global_ones_large_parts():
    ramp = torch.linspace(0, 1, 64).expand(500, 1, 64, 64)  # what a crop spans of it tells its width
    plain = {"flip_prob": 0, "jitter_prob": 0, "grey_prob": 0, "blur_prob": 0, "crop_ratio": (1, 1)}
    views = {
        name: AugmentConfig(**plain, crop_scale=scale)
        for name, scale in {"first": (0.4, 1), "second": (0.4, 1), "local": (0.05, 0.4)}.items()
    }
    crops = multi_crop(ramp, MultiCropConfig(num_local=2, **views), (28, 28), seeded())
    for part, low, high in ((crops.wide, 0.4, 1.0), (crops.local, 0.05, 0.4)):
        side = part.flatten(0, 1)
        width = side.amax((1, 2, 3)) - side.amin((1, 2, 3))  # as a share of the image's
        assert float(width.min()) == pytest.approx(low**0.5, abs=0.05)
        assert float(width.max()) == pytest.approx(high**0.5, abs=0.05)


def test_without_local_crops_there_are_two():
    crops = multi_crop(images(), MultiCropConfig(num_local=0), (10, 8), seeded())
    assert crops.local.shape == (4, 0, 3, 10, 8)
    assert crops.wide.shape == (4, 2, 3, 24, 20)


def test_ranks_draw_the_crops_of_one_process(monkeypatch):
    config, pixels = MultiCropConfig(num_local=3), images()
    whole = multi_crop(pixels, config, (10, 8), seeded())
    monkeypatch.setattr(distributed, "total", lambda count: 2 * count)
    for rank in range(2):
        monkeypatch.setattr(distributed, "share", lambda drawn, dim=0, rank=rank: drawn.chunk(2, dim)[rank])
        part = slice(2 * rank, 2 * rank + 2)
        crops = multi_crop(pixels[part], config, (10, 8), seeded())
        for ours, theirs in zip(crops, whole, strict=True):
            torch.testing.assert_close(ours, theirs[part], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"local_size": 0}, "a.local_size"),
        ({"local": {"crop_scale": [0.4, 0.1]}}, "a.local.crop_scale"),
        ({"num_locals": 2}, "did you mean 'num_local'"),
    ],
)
def test_a_wrong_number_is_named(values, fault):
    with pytest.raises(DeclarationError) as error:
        parse(MultiCropConfig, values, "a")
    assert fault in str(error.value)
