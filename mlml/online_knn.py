"""A vote of nearest neighbours during training: how good the features are by now, without a probe.

It reads labels, which pretraining must not, and so nothing that it does reaches the training: no weight, no statistic
of a batch norm and no random draw depends on it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mlml import distributed
from mlml.data.batches import Batches
from mlml.method import Encodes, Method
from mlml.neighbours import vote

BANK = 8192
"""Train images that vote, spread evenly over the split; more would take longer than they tell."""

NEIGHBOURS, TEMPERATURE = 20, 0.1
"""As the probe `knn` has them."""


def check(method: Method, train: Batches, validation: Batches) -> None:
    """Refuse what has no features, or no labels of images.

    Raises:
        ValueError: one of the two.
    """
    if not isinstance(method, Encodes):
        raise ValueError(
            f"train.online_knn_every: needs a method with an encoder; {type(method).__name__} has none; leave it out"
        )
    for split in (train, validation):
        labels = split.at(torch.zeros(1, dtype=torch.long)).labels
        if labels.ndim != 1:
            raise ValueError(
                "train.online_knn_every: needs labels of images, and these batches have none; leave it out"
            )


@torch.no_grad()
def measure(method: Method, train: Batches, validation: Batches) -> dict[str, float]:
    """Accuracy of the vote on the whole validation split; of several ranks the first works, the others go on.

    Args:
        method: is in eval mode afterwards; the loop sets it back at its next step.
        train: the bank, on every rank the whole split.
        validation: the queries.

    Returns:
        {"online/knn_accuracy": share}; nothing on the other ranks.
    """
    if distributed.rank() != 0:
        return {}
    method.eval()
    spread = torch.linspace(0, train.size - 1, min(train.size, BANK), dtype=torch.float64).round().long()
    with distributed.alone():
        bank, labels = _encoded(method, train, list(torch.split(spread, train.batch_size)))
        queries, truth = _encoded(method, validation, validation.in_order())
    predicted = vote(bank, labels, queries, int(labels.max()) + 1, NEIGHBOURS, TEMPERATURE)
    return {"online/knn_accuracy": float((predicted == truth).double().mean())}


def _encoded(
    method: Method, batches: Batches, order: list[Int[Tensor, " b"]]
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """Features and labels of the images at some places."""
    assert isinstance(method, Encodes)
    features, labels = [], []
    for index in order:  # images of one batch at a time: the data may be larger than the device
        batch = batches.at(index)
        features.append(method.encode(batch.images).float())
        labels.append(batch.labels)
    return torch.cat(features), torch.cat(labels)
