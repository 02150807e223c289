"""Numbers of a segmentation: the Dice loss, and the intersection over union.

Notation: b images of h x w pixels; k classes of pixels. For one image and class c, I_c counts the pixels that are c in
the mask and in the prediction, U_c those that are c in either.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def dice_loss(scores: Float[Tensor, "b k h w"], masks: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """1 less the Dice coefficient, mean over the classes of each image's mask, then over images; in [0, 1].

    Milletari et al. 2016 (V-Net), arXiv:1606.04797, section 3: D = 2 sum(p g) / (sum(p^2) + sum(g^2)) over the pixels,
    with p the softmax of the scores and g the mask of one class. A class that is not in an image's mask has D = 0
    whatever p is, and no gradient; it is left out.
    """
    shares = scores.float().softmax(1).flatten(2)  # (b, k, h w)
    truth = F.one_hot(masks.flatten(1), scores.shape[1]).transpose(1, 2).to(shares.dtype)  # (b, k, h w)
    sizes = truth.sum(2)  # (b, k), also the sum of the squares
    lengths = (shares.square().sum(2) + sizes).clamp(min=1)  # at least 1 where the class is; 0 / 0 is not a number
    dice = 2 * (shares * truth).sum(2) / lengths
    present = (sizes > 0).to(shares.dtype)
    return 1 - ((dice * present).sum(1) / present.sum(1)).mean()


def confusion(truth: Int[Tensor, "b ..."], predicted: Int[Tensor, "b ..."], num_classes: int) -> Float[Tensor, "b k k"]:
    """Count, for each image, the pixels of each true class (rows) by the class predicted (columns); (b, k, k).

    The counts are floats, exact up to 2 ** 24 pixels.
    """
    pairs = (truth * num_classes + predicted).flatten(1)  # (b, h w)
    counts = torch.zeros(len(pairs), num_classes**2, device=pairs.device)
    counts.scatter_add_(1, pairs, torch.ones_like(pairs, dtype=counts.dtype))
    return counts.view(-1, num_classes, num_classes)


def mean_iou(confusions: Float[Tensor, "b k k"]) -> Float[Tensor, " b"]:
    """Mean of I_c / U_c over the classes c that are in the mask or in the prediction, of each image; in [0, 1].

    Args:
        confusions: of `confusion`; summed over the images of a split, (1, k, k), the result is that of the PASCAL VOC
            challenge (Everingham et al. 2010).
    """
    both = confusions.diagonal(dim1=1, dim2=2)  # (b, k)
    either = confusions.sum(1) + confusions.sum(2) - both
    present = (either > 0).to(both.dtype)
    return (both / either.clamp(min=1)).sum(1) / present.sum(1)
