"""Heads between the features of an encoder and the objective of a pretext."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def projection_head(
    widths: Sequence[int], norm: bool = True, last_norm: bool = False, last_bias: bool = True
) -> nn.Sequential:
    """Return linear layers with batch norm and ReLU between them, as in SimCLR and those after it.

    Args:
        widths: of the input, of each hidden layer and of the output.
        norm: whether a batch norm follows each hidden layer; its bias is left out then.
        last_norm: whether one without affine part follows the output (Chen & He 2021, arXiv:2011.10566, section 4.4).
        last_bias: whether the output has a bias; with `last_norm` it has none.

    Raises:
        ValueError: fewer than two widths.
    """
    if len(widths) < 2:
        raise ValueError(f"head: widths must be those of the input and of the output at least; got {list(widths)}")
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        normalise = nn.BatchNorm1d(after) if norm else nn.Identity()
        layers += [nn.Linear(before, after, bias=not norm), normalise, nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias and not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
