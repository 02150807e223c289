"""Crop, resize, flip, shift, rotation and blur of batches, where each image has parameters of its own.

Notation: b images of c channels; h x w pixels come in, H x W go out. Resized crop, flip and blur are linear and
separable, so each image X becomes R X Cᵀ with matrices R (b, H, h) and C (b, W, w): two small batched products, no
Python per image, nothing for the host to wait for. The products obey `torch.set_float32_matmul_precision`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mlml import distributed

CROP_ATTEMPTS = 10
"""Boxes that are drawn for an image before its crop falls back to the centre, as in torchvision."""


class Boxes(NamedTuple):
    """Where each image is cropped, in pixels."""

    top: Int[Tensor, " b"]
    left: Int[Tensor, " b"]
    height: Int[Tensor, " b"]
    width: Int[Tensor, " b"]


class Blur(NamedTuple):
    """Which images are blurred, and how much.

    Attributes:
        kernel_size: odd, in pixels.
        sigma: standard deviation in pixels, > 0.
        applied: the other images stay as they are.
    """

    kernel_size: int
    sigma: Float[Tensor, " b"]
    applied: Bool[Tensor, " b"]


class Matrices(NamedTuple):
    """What an image is multiplied by from the left, and what, transposed, from the right."""

    rows: Float[Tensor, "b H h"]
    columns: Float[Tensor, "b W w"]


def resized_crop(
    images: Float[Tensor, "b c h w"],
    boxes: Boxes,
    size: tuple[int, int],
    flipped: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, "b c H W"]:
    """Crop each image to its box and resize that to `size`, bilinear with antialiasing.

    Equals `torchvision.transforms.v2.functional.resized_crop(..., antialias=True)` image by image.

    Args:
        images: any range.
        boxes: inside the images.
        size: height and width that go out.
        flipped: mirror these images left to right afterwards; costs nothing here.
    """
    return _separable(images, *crop_matrices(images, boxes, size, flipped))


def crop_matrices(
    images: Float[Tensor, "b c h w"], boxes: Boxes, size: tuple[int, int], flipped: Bool[Tensor, " b"] | None = None
) -> Matrices:
    """Return the matrices of `resized_crop`; each of their rows sums to 1. The pixels are not looked at."""
    rows = _triangle(boxes.top, boxes.height, size[0], images.shape[2], None, images.dtype)
    columns = _triangle(boxes.left, boxes.width, size[1], images.shape[3], flipped, images.dtype)
    return Matrices(rows, columns)


def sample_boxes(
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Boxes:
    """Draw boxes as `torchvision.transforms.v2.RandomResizedCrop` does (Szegedy et al. 2015, arXiv:1409.4842).

    Args:
        count: number of boxes.
        size: height and width of the images.
        scale: range of the box's area, as a fraction of the image's.
        ratio: range of width / height, drawn uniformly in its logarithm.
        generator: on the device where the boxes are needed.
    """
    height, width = size
    shape = (distributed.total(count), CROP_ATTEMPTS)
    area = height * width * _uniform(shape, *scale, generator)
    aspect = _uniform(shape, math.log(ratio[0]), math.log(ratio[1]), generator).exp_()
    widths, heights = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()  # (b, attempts)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    central_height, central_width = _central_box(size, ratio)
    box_height = torch.where(found, heights.gather(1, first)[:, 0], float(central_height))
    box_width = torch.where(found, widths.gather(1, first)[:, 0], float(central_width))
    place = torch.rand(2, distributed.total(count), generator=generator, device=generator.device)
    place = distributed.share(place, dim=1)
    top = torch.where(found, (place[0] * (height - box_height + 1)).floor_(), (height - central_height) // 2)
    left = torch.where(found, (place[1] * (width - box_width + 1)).floor_(), (width - central_width) // 2)
    return Boxes(top.long(), left.long(), box_height.long(), box_width.long())


def flip_horizontal(images: Float[Tensor, "b c h w"], flipped: Bool[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Mirror the images that `flipped` marks left to right."""
    row, column = _grid(images)
    return _gathered(images, row * images.shape[3] + _mirrored(column, images.shape[3], flipped))


def flip_vertical(images: Float[Tensor, "b c h w"], flipped: Bool[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Mirror the images that `flipped` marks top to bottom."""
    row, column = _grid(images)
    return _gathered(images, _mirrored(row, images.shape[2], flipped) * images.shape[3] + column)


def rotate90(images: Float[Tensor, "b c n n"], turns: Int[Tensor, " b"]) -> Float[Tensor, "b c n n"]:
    """Rotate each image by its number of quarter turns, counter-clockwise, as `torch.rot90` over (h, w).

    Args:
        images: square.
        turns: any integers; 4 is a whole turn.

    Raises:
        ValueError: images that are not square.
    """
    n = images.shape[3]
    if images.shape[2] != n:
        raise ValueError(f"rotate90: images must be square; got {images.shape[2]}x{n}; crop or resize them")
    quarter = turns[:, None, None] % 4
    cosine, sine = (quarter == 0).long() - (quarter == 2).long(), (quarter == 1).long() - (quarter == 3).long()
    row, column = _grid(images)
    # one step down and one step right in the result, as steps through the n² pixels of the image
    down, right = n * cosine - sine, cosine + n * sine
    start = (n - 1) * ((-down).clamp(min=0) + (-right).clamp(min=0))
    return _gathered(images, start + down * row + right * column)


def rotate(images: Float[Tensor, "b c h w"], degrees: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Rotate each image by its own angle about its centre, counter-clockwise, bilinear; what comes in is 0.

    Equals `torchvision.transforms.v2.functional.rotate(..., interpolation=BILINEAR)` image by image. There quarter
    turns of a square move pixels, here they interpolate like any other angle: equal but for rounding. `rotate90` is
    exact.

    Args:
        images: any range; they keep their size, so corners may leave them.
        degrees: any finite angles.
    """
    height, width = images.shape[2:]
    row, column = _grid(images)
    y, x = row - (height - 1) / 2, column - (width - 1) / 2  # (1, h, 1), (1, 1, w): pixels from the centre, y down
    angle = torch.deg2rad(degrees.double())[:, None, None]  # an error of an angle grows with the distance
    cosine, sine = angle.cos().to(images.dtype), angle.sin().to(images.dtype)
    source_x, source_y = cosine * x - sine * y, sine * x + cosine * y  # (b, h, w): whence
    grid = torch.stack([source_x * (2 / width), source_y * (2 / height)], 3).to(images.dtype)  # [-1, 1]: edge to edge
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def shift(
    images: Float[Tensor, "b c h w"], down: Int[Tensor, " b"], right: Int[Tensor, " b"], flipped: Bool[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Mirror the marked images left to right, then move each by whole pixels; what comes in at the edge is 0.

    With offsets of at most p this is a crop at the images' own size from images padded by p.

    Args:
        images: any range.
        down: pixels; negative for up.
        right: pixels; negative for left.
        flipped: marks the images to mirror.
    """
    height, width = images.shape[2:]
    row, column = _grid(images)
    row, column = row - down[:, None, None], column - right[:, None, None]  # (b, h, 1), (b, 1, w): whence
    inside = ((row >= 0) & (row < height)).to(images.dtype) * ((column >= 0) & (column < width))  # (b, h, w)
    column = _mirrored(column, width, flipped)
    moved = _gathered(images, row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
    return moved.mul_(inside[:, None])


def gaussian_blur(
    images: Float[Tensor, "b c h w"], kernel_size: int, sigma: Float[Tensor, " b"], applied: Bool[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Blur the images that `applied` marks, each by its own Gaussian, with reflected edges.

    Equals `torchvision.transforms.v2.functional.gaussian_blur` image by image.

    Args:
        images: any range.
        kernel_size: odd, in pixels.
        sigma: standard deviation in pixels, > 0.
        applied: the others stay as they are.

    Raises:
        ValueError: a kernel that is even, or too wide to reflect at the edges.
    """
    height, width = images.shape[2:]
    taps = gaussian_taps(Blur(kernel_size, sigma, applied), min(height, width), images.dtype)
    rows = _convolution(taps, height)
    columns = rows if width == height else _convolution(taps, width)
    return _separable(images, rows, columns)


def gaussian_taps(blur: Blur, side: int, dtype: torch.dtype) -> Float[Tensor, "b k"]:
    """Return what each image's blur is convolved with; it sums to 1.

    Args:
        blur: what to do.
        side: the smaller of the image's sides, in pixels.
        dtype: of the images.

    Raises:
        ValueError: a kernel that is even, or too wide to reflect at the edges.
    """
    kernel_size, sigma, applied = blur
    if kernel_size % 2 == 0 or kernel_size // 2 >= side:
        raise ValueError(
            f"gaussian_blur: kernel_size must be odd and less than twice the image's side ({side}); got {kernel_size}"
        )
    offset = torch.arange(kernel_size, device=sigma.device) - kernel_size // 2  # (k,)
    exponent = -0.5 * (offset / sigma[:, None]) ** 2  # (b, k)
    return torch.where(applied[:, None], exponent.softmax(1), (offset == 0).float()).to(dtype)


def reflected(place: Int[Tensor, "..."], size: int) -> Int[Tensor, "..."]:
    """Return the pixel of `size` that lies at each place, the edge pixels being mirrors (and not repeated)."""
    return size - 1 - (size - 1 - place.abs()).abs_()


def _separable(
    images: Float[Tensor, "b c h w"], rows: Float[Tensor, "b H h"], columns: Float[Tensor, "b W w"]
) -> Float[Tensor, "b c H W"]:
    """R X Cᵀ for each image and channel."""
    b, c, h, w = images.shape
    halfway = torch.bmm(images.reshape(b, c * h, w), columns.transpose(1, 2)).view(b, c, h, -1)
    return rows[:, None] @ halfway


def _grid(images: Tensor) -> tuple[Int[Tensor, "1 h 1"], Int[Tensor, "1 1 w"]]:
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device)
    return row.view(1, height, 1), torch.arange(width, device=images.device).view(1, 1, width)


def _mirrored(place: Int[Tensor, "_ h w"], size: int, flipped: Bool[Tensor, " b"]) -> Int[Tensor, "b h w"]:
    return torch.where(flipped[:, None, None], size - 1 - place, place)


def _gathered(images: Float[Tensor, "b c h w"], source: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
    """Each pixel of the result is pixel `source` of the same image, counted row by row."""
    index = source.flatten(1)[:, None].expand(-1, images.shape[1], -1)  # (b, c, h w)
    return images.flatten(2).gather(2, index).view_as(images)


def _triangle(
    start: Int[Tensor, " b"],
    length: Int[Tensor, " b"],
    out_size: int,
    in_size: int,
    mirrored: Bool[Tensor, " b"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "b o i"]:
    """Matrices that resize pixels [start, start + length) of `in_size` to `out_size`.

    The weight of an input pixel falls off linearly from the output pixel's centre. When shrinking, the triangle is
    as much wider as the image gets smaller: that is the antialiasing.
    """
    device = start.device
    scale = (length / out_size).to(dtype)[:, None]  # (b, 1)
    out = torch.arange(out_size, dtype=dtype, device=device).expand(len(start), -1)
    if mirrored is not None:
        out = torch.where(mirrored[:, None], out_size - 1 - out, out)
    widening = scale.clamp(min=1)
    pixel = torch.arange(in_size, dtype=dtype, device=device) + 0.5 - start[:, None]  # (b, i), from `start`: precise
    outside = (pixel < 0) | (pixel > length[:, None])
    pixel = (pixel / widening).masked_fill_(outside, torch.inf)
    center = scale * (out + 0.5) / widening  # (b, o)
    weights = (pixel[:, None, :] - center[:, :, None]).abs_().clamp_(max=1).neg_().add_(1)  # (b, o, i)
    return weights.div_(weights.sum(2, keepdim=True))


def _convolution(taps: Float[Tensor, "b k"], size: int) -> Float[Tensor, "b n n"]:
    """Matrices that convolve `size` pixels with `taps`, with reflected edges."""
    kernel_size = taps.shape[1]
    pixel = torch.arange(size, device=taps.device)
    offset = torch.arange(kernel_size, device=taps.device) - kernel_size // 2  # (k,)
    source = reflected(pixel[:, None] + offset[:, None, None], size)  # (k, n, 1)
    spread = (source == pixel).to(taps.dtype)  # (k, n, n)
    return (taps @ spread.flatten(1)).view(-1, size, size)


def _central_box(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box at the centre whose ratio is allowed."""
    height, width = size
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return size


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    draws = distributed.share(torch.rand(shape, generator=generator, device=generator.device))
    return draws.mul(high - low).add_(low)
