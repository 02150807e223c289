"""Augmentations of whole batches on the device: SimCLR's two views, and shift and flip for supervised training.

Each operation is a pure function of images and parameters (`spatial`, `color`); each recipe draws the parameters of
every image from one generator and then applies them. Nothing waits for the host, and `simclr_apply` compiles whole.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mlml import distributed
from mlml.config import AugmentConfig, AugmentForm, ShiftFlipConfig
from mlml.data.color import Jitter, color_jitter, greyscale, sample_jitter, solarise
from mlml.data.fused import fused_view
from mlml.data.spatial import Blur, Boxes, gaussian_blur, resized_crop, rotate90, sample_boxes, shift

__all__ = [
    "Blur",
    "SimCLRParameters",
    "Solarised",
    "Views",
    "rotate90",
    "shift_flip",
    "simclr_apply",
    "simclr_sample",
    "simclr_view",
    "simclr_views",
]


class Views(NamedTuple):
    """Two views of each image of a batch."""

    first: Float[Tensor, "b c h w"]
    second: Float[Tensor, "b c h w"]


class Solarised(NamedTuple):
    """From which value on each image is inverted, and which images are."""

    threshold: Float[Tensor, " b"]
    applied: Bool[Tensor, " b"]


class SimCLRParameters(NamedTuple):
    """What makes one view of each image; None where the config leaves an operation out."""

    boxes: Boxes
    flipped: Bool[Tensor, " b"] | None
    jitter: Jitter | None
    grey: Bool[Tensor, " b"] | None
    blur: Blur | None
    solarised: Solarised | None = None


def simclr_views(
    images: Float[Tensor, "b c h w"], config: AugmentConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Return two independent views of each image, for SimCLR and its kin (Chen et al. 2020, Algorithm 1).

    Args:
        images: in [0, 1], of 1 or 3 channels.
        config: what to do, how often and how strongly.
        generator: on the device of the images; all randomness comes from it.

    Raises:
        ValueError: a blur kernel too wide for the images.
    """
    return simclr_view(images, config, generator), simclr_view(images, config, generator)


def simclr_view(
    images: Float[Tensor, "b c h w"],
    config: AugmentConfig,
    generator: torch.Generator,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "b c H W"]:
    """Return one view of each image, of height and width `size`, by default the images' own.

    Other arguments and errors as of `simclr_views`.
    """
    return simclr_apply(images, simclr_sample(images, config, generator, size), size, config.form)


def simclr_sample(
    images: Float[Tensor, "b c h w"],
    config: AugmentConfig,
    generator: torch.Generator,
    size: tuple[int, int] | None = None,
) -> SimCLRParameters:
    """Draw the parameters of one view of each image, of height and width `size`; the pixels are not looked at."""
    b, _, height, width = images.shape

    def chosen(probability: float) -> Tensor:
        draws = torch.rand(distributed.total(b), generator=generator, device=generator.device)
        return distributed.share(draws) < probability

    boxes = sample_boxes(b, (height, width), config.crop_scale, config.crop_ratio, generator)
    flipped = chosen(config.flip_prob) if config.flip_prob else None
    strengths = (config.brightness, config.contrast, config.saturation, config.hue)
    jitter = sample_jitter(strengths, chosen(config.jitter_prob), generator) if config.jitter_prob else None
    grey = chosen(config.grey_prob) if config.grey_prob else None
    blur = None
    if config.blur_prob:
        low, high = config.blur_sigma
        draws = torch.rand(distributed.total(b), generator=generator, device=generator.device)
        sigma = distributed.share(draws).mul(high - low).add_(low)
        kernel_size = config.blur_kernel or paper_blur_kernel(size[0] if size is not None else height)
        blur = Blur(kernel_size, sigma, chosen(config.blur_prob))
    solarised = None
    if config.solarise_prob:
        threshold = torch.full((b,), config.solarise_threshold, device=generator.device)
        solarised = Solarised(threshold, chosen(config.solarise_prob))
    return SimCLRParameters(boxes, flipped, jitter, grey, blur, solarised)


def simclr_apply(
    images: Float[Tensor, "b c h w"],
    parameters: SimCLRParameters,
    size: tuple[int, int] | None = None,
    form: AugmentForm = "exact",
) -> Float[Tensor, "b c H W"]:
    """Make the view of each image that its parameters describe: crop and flip, jitter, greyscale, blur, solarisation.

    The crop is resized to `size`, by default the images' own. `form` is that of the config: `mlml.data.fused` tells
    what its fused form leaves out.
    """
    boxes, flipped, jitter, grey, blur, solarised = parameters
    size = size or (images.shape[2], images.shape[3])
    if form == "fused":
        images = fused_view(images, size, boxes, flipped, jitter, grey, blur)
    else:
        images = resized_crop(images, boxes, size, flipped)
        if jitter is not None:
            images = color_jitter(images, jitter)
        if grey is not None:
            images = greyscale(images, grey)
        if blur is not None:
            images = gaussian_blur(images, *blur)
    if solarised is not None:
        images = solarise(images, *solarised)
    return images


def shift_flip(
    images: Float[Tensor, "b c h w"], config: ShiftFlipConfig, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Pad, crop at random and mirror at random, as for small images in He et al. 2016, arXiv:1512.03385, section 4.2.

    Args:
        images: any range; what comes in at the edge is 0.
        config: padding in pixels, and how often to mirror.
        generator: on the device of the images; all randomness comes from it.
    """
    if not config.padding and not config.flip_prob:
        return images
    b, device = distributed.total(len(images)), generator.device
    p = config.padding
    down, right = distributed.share(torch.randint(-p, p + 1, (2, b), generator=generator, device=device), dim=1)
    flipped = distributed.share(torch.rand(b, generator=generator, device=device)) < config.flip_prob
    return shift(images, down, right, flipped)


def paper_blur_kernel(height: int) -> int:
    """Return the kernel of the authors' code: a tenth of the image's height, made odd, and at least 3 pixels."""
    return 2 * max(1, height // 20) + 1
