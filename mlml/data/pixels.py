"""From a decoded picture of any mode and size to uint8 pixels of declared channels and size."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "squash"]
"""How a picture of another shape is brought to the declared one: its centre is cut out, or it is distorted."""


def pixels(
    picture: "Image", channels: int, size: tuple[int, int] | None = None, fit: Fit = "crop"
) -> NDArray[np.uint8]:
    """Return a picture as an array.

    Transparent parts are laid over white; 16 bits are cut to the upper 8; grey is ITU-R 601 luma. Resizing is
    Pillow's bilinear: a triangle filter, widened by the scale when the picture shrinks, so that it does not alias.

    Args:
        picture: what Pillow opened.
        channels: 1 for grey, 3 for RGB.
        size: (height, width) in pixels; None keeps the picture's.
        fit: how to reach `size` from another shape.

    Returns:
        (channels, height, width).

    Raises:
        ValueError: the mode has no fixed range of values, or Pillow cannot convert it.
    """
    from PIL import Image

    picture = _eight_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None and size != (picture.height, picture.width):
        box = _centre(picture, size) if fit == "crop" else None
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    array = np.asarray(picture, dtype=np.uint8)  # (h, w) or (h, w, 3)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _eight_bit(picture: "Image") -> "Image":
    """Refuse what has no fixed range, and cut 16 bits to 8; Pillow's own conversion would clip all above 255."""
    from PIL import Image

    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode!r} has no fixed range of values; save it with 8 or 16 bits")
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture


def _centre(picture: "Image", size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Largest box about the centre with the shape of `size`, as (left, top, right, bottom) in the picture's pixels."""
    height, width = size
    scale = min(picture.height / height, picture.width / width)
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    return (
        max(left, 0.0),
        max(top, 0.0),
        min(left + width * scale, picture.width),
        min(top + height * scale, picture.height),
    )
