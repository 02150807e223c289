"""The closed table of losses of class scores.

Notation: (b, k) scores of b examples for k classes; y the label of an example, s its scores.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Loss = Callable[[Tensor, Tensor, float], Tensor]


def cross_entropy(scores: Float[Tensor, "b k"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, " b"]:
    """-log softmax(s)_y, in nats; with label smoothing as in Szegedy et al. 2016, arXiv:1512.00567, section 7."""
    return F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)


def hinge(scores: Float[Tensor, "b k"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, " b"]:
    """sum_{j != y} max(0, 1 - s_y + s_j) / k, the multiclass hinge; labels are hard, so there is no smoothing.

    Weston & Watkins 1999, "Support vector machines for multi-class pattern recognition", with margin 1, and divided by
    the number of classes as torch does.
    """
    return F.multi_margin_loss(scores, labels, reduction="none")


def mse(scores: Float[Tensor, "b k"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, " b"]:
    """Mean over classes of the squared difference of the scores to the one-hot label."""
    return (scores - _targets(scores, labels, smoothing)).square().mean(1)


def bce(scores: Float[Tensor, "b k"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, " b"]:
    """Mean over classes of the binary cross entropy of sigmoid(s_j), each class against the rest; in nats."""
    targets = _targets(scores, labels, smoothing)
    return F.binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(1)


def perceptron(scores: Float[Tensor, "b k"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, " b"]:
    """Sum over classes of |s_j| where the step of s_j is not the one-hot label; labels are hard.

    Its gradient is Rosenblatt's rule (1958, "The perceptron"): a unit that fires (s_j >= 0) and should not loses the
    inputs, one that should and does not gains them, and one that is right stays.
    """
    fires = (scores >= 0).to(scores.dtype)
    wrong = F.one_hot(labels, scores.shape[1]) - fires  # (b, k), in {-1, 0, 1}
    return -(wrong * scores).sum(1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "hinge": hinge,
    "mse": mse,
    "bce": bce,
    "perceptron": perceptron,
}
"""Name in the declaration -> function of (scores, labels, label smoothing) that returns the loss of each example."""


def _targets(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """One-hot labels, (1 - smoothing) of them and the rest even over all classes; (b, k)."""
    hard = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    return hard * (1 - smoothing) + smoothing / scores.shape[1]
