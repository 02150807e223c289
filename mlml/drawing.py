"""Draw from a trained method what a person asks for: images of a class or of a text, or a part of an image anew."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mlml.config import suggest
from mlml.method import Edits, InSteps, Method, Samples, SamplesClasses, SamplesTexts
from mlml.seeds import generator

BATCH_SIZE = 64
"""Images that are drawn at once; part of what a seed's images depend on."""


class DrawingError(ValueError):
    """What a method cannot draw; the message says why."""


@torch.no_grad()
def draw(
    method: Method,
    count: int,
    seed: int,
    label: str | None = None,
    text: str | None = None,
    steps: int | None = None,
) -> Float[Tensor, "n c h w"]:
    """Images in [0, 1], on the processor; the same for the same arguments.

    Args:
        method: trained, in eval mode.
        count: how many images.
        seed: of the draws.
        label: a class by its name, or by its number where no class has that name.
        text: what the images are to show.
        steps: of the sampler of a diffusion method, in the place of the declared ones.

    Raises:
        DrawingError: the method cannot do that.
    """
    if label is not None and text is not None:
        raise DrawingError("give one of a class and a text, not both")
    function, told = _function(method, label, text)
    draws, parts = generator(_device(method), seed, "draw"), []
    with _refusing(), _in_steps(method, steps):
        for start in range(0, count, BATCH_SIZE):
            parts.append(function(told(min(BATCH_SIZE, count - start)), draws).float().cpu())
    return torch.cat(parts)


def _in_steps(method: Method, steps: int | None) -> AbstractContextManager[None]:
    """Have a diffusion method draw in so many steps, within the block."""
    if steps is None:
        return nullcontext()
    if not isinstance(method, InSteps):
        raise DrawingError(f"{_kind(method)} takes no steps to draw an image; leave 'steps' out")
    return method.in_steps(steps)


def _function(
    method: Method, label: str | None, text: str | None
) -> tuple[Callable[..., Tensor], Callable[[int], Any]]:
    """The function of a method that draws, and what it is told of so many images."""
    if text is not None:
        if not isinstance(method, SamplesTexts):
            raise DrawingError(f"{_kind(method)} draws no images of a text: it has no 'sample_texts'")
        return method.sample_texts, lambda size: [text] * size
    if label is not None:
        if not isinstance(method, SamplesClasses):
            raise DrawingError(f"{_kind(method)} draws no images of a class: it has no 'sample_classes'")
        number = _class(method.spec.classes, label)
        return method.sample_classes, lambda size: torch.full((size,), number, device=_device(method))
    if not isinstance(method, Samples):
        raise DrawingError(f"{_kind(method)} draws no images: it has no 'sample'")
    return method.sample, lambda size: size


def _class(classes: Sequence[str], label: str) -> int:
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    raise DrawingError(f"no class {label!r}{suggest(label, classes)}")


@torch.no_grad()
def edit(
    method: Method, image: Float[Tensor, "1 c h w"], mask: Bool[Tensor, "1 h w"], text: str, seed: int
) -> Float[Tensor, "1 c h w"]:
    """The image, drawn anew where the mask is true, as the text says; on the processor.

    Raises:
        DrawingError: the method cannot do that, or an image has not the size that it was trained on.
    """
    if not isinstance(method, Edits):
        raise DrawingError(f"{_kind(method)} edits no images: it has no 'edit'")
    device = _device(method)
    with _refusing():
        return method.edit(image.to(device), mask.to(device), [text], generator(device, seed, "edit")).float().cpu()


def read_image(path: Path, method: Method, channels: int | None = None) -> Float[Tensor, "1 c h w"]:
    """Read an image file as values in [0, 1], with as many channels as the method's own images unless told.

    Raises:
        DrawingError: no such file, no image, or one of another size than the method was trained on.
    """
    spec = method.spec
    channels = channels or spec.channels
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise DrawingError(f"{path}: is no image that can be read ({type(error).__name__})") from None
    if pixels.shape[:2] != (spec.height, spec.width):
        size, wanted = f"{pixels.shape[1]} x {pixels.shape[0]}", f"{spec.width} x {spec.height}"
        raise DrawingError(f"{path}: must be {wanted} pixels, as the images that were trained on; got {size}")
    return torch.from_numpy(pixels.reshape(spec.height, spec.width, channels)).permute(2, 0, 1)[None]


def write_image(image: Float[Tensor, "c h w"], path: Path) -> None:
    """Write an image in [0, 1] as a PNG of its own size.

    Raises:
        DrawingError: a value that is not in [0, 1].
    """
    if not bool(((image >= 0) & (image <= 1)).all()):  # false for nan, too
        raise DrawingError(f"{path}: values must be in [0, 1]; got {float(image.min())} to {float(image.max())}")
    pixels = (255 * image).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (h, w, c)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, "PNG")


@contextmanager
def _refusing() -> Iterator[None]:
    """What a method refuses, such as a word that it has never seen, is what cannot be drawn."""
    try:
        yield
    except ValueError as error:
        raise DrawingError(str(error)) from None


def _kind(method: Method) -> str:
    return type(method).__name__


def _device(method: Method) -> torch.device:
    return next(method.parameters()).device
