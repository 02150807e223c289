"""What a trained method predicts of a split: counts of right and wrong classes, and examples to be looked at.

Notation: k classes; n images; a prediction is of an image, or of each of its h x w pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mlml.data.batches import Batches
from mlml.method import Scores


class Examples(NamedTuple):
    """Images, what is true of them and what was predicted."""

    images: Float[NDArray[np.floating], "n c h w"]
    truth: Int[NDArray[np.integer], "n ..."]
    predicted: Int[NDArray[np.integer], "n ..."]


class Predictions(NamedTuple):
    """Of a whole split.

    Attributes:
        confusion: how many images, or pixels, of each true class (rows) were predicted as each class (columns).
        first: the first images of the split.
        mistakes: images whose class is wrong, the most confident first: those whose score of the predicted class is
            furthest above that of the true one. None for predictions of pixels.
    """

    confusion: Int[NDArray[np.int64], "k k"]
    first: Examples
    mistakes: Examples | None


@torch.no_grad()
def predict(method: Scores, batches: Batches, num_classes: int, num_first: int, num_mistakes: int) -> Predictions:
    """Predict every example of a split, in order, by a method in eval mode.

    Args:
        method: on the device of the batches.
        batches: with the targets of the method as labels.
        num_classes: that the method tells apart.
        num_first: how many of the first examples to keep.
        num_mistakes: how many mistakes to keep at most.
    """
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=batches.device)
    first: list[tuple[Tensor, Tensor, Tensor]] = []
    margins: list[Tensor] = []
    classes: list[Tensor] = []
    for index in batches.in_order():
        images, truth = batches.at(index)
        scores = method.scores(images).float()  # (b, k) or (b, k, h, w)
        predicted = scores.argmax(1)
        counts += torch.bincount((truth * num_classes + predicted).flatten(), minlength=num_classes**2)
        if int(index[0]) < num_first:
            first.append((images, truth, predicted))
        if truth.ndim == 1:
            margins.append(scores.amax(1) - scores.gather(1, truth[:, None])[:, 0])
            classes.append(torch.stack([truth, predicted], 1))
    kept = Examples(*(torch.cat(parts)[:num_first].cpu().numpy() for parts in zip(*first, strict=True)))
    confusion = counts.view(num_classes, num_classes).cpu().numpy()
    mistakes = _mistakes(batches, torch.cat(margins), torch.cat(classes), num_mistakes) if margins else None
    return Predictions(confusion, kept, mistakes)


def _mistakes(batches: Batches, margins: Tensor, classes: Tensor, count: int) -> Examples:
    """The images with the largest margins, in (n,), among those whose classes, in (n, 2), differ."""
    wrong = (classes[:, 0] != classes[:, 1]).nonzero()[:, 0]
    order = margins[wrong].argsort(descending=True, stable=True)[:count]
    chosen = wrong[order].cpu()
    images = batches.at(chosen).images.cpu().numpy()
    truth, predicted = classes.cpu()[chosen].T.numpy()
    return Examples(images, truth, predicted)
