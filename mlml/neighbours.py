"""Weighted votes of nearest neighbours, by the cosine of features."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 1024
"""Queries that are compared with the whole bank at once."""


def vote(
    bank: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    num_classes: int,
    k: int,
    temperature: float,
) -> Int[Tensor, " n"]:
    """Class of each query: the label with the most weight, exp(cosine / temperature), among the k nearest of the bank.

    Wu et al. 2018, arXiv:1805.01978, section 3.4. A bank of fewer than k votes whole.
    """
    keys, predictions = F.normalize(bank, dim=1), []
    for chunk in torch.split(F.normalize(queries, dim=1), CHUNK):
        similarity, index = (chunk @ keys.T).topk(min(k, len(keys)))  # (q, k)
        weights = (similarity / temperature).exp()
        votes = torch.zeros(len(chunk), num_classes, device=chunk.device)
        votes.scatter_add_(1, labels[index], weights)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)
