"""Blocks of a vision transformer, and fixed positions of a grid of patches.

Notation: t tokens, n patches, d their width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def transformer(dim: int, num_heads: int, mlp_dim: int, dropout_prob: float, depth: int) -> nn.TransformerEncoder:
    """Return pre-norm blocks with GELU and a layer norm behind them (Dosovitskiy et al. 2021, Eq. 2 to 4).

    It maps tokens (b, t, d) to as many. Each block begins with weights of its own.
    """
    block = nn.TransformerEncoderLayer(
        dim, num_heads, mlp_dim, dropout_prob, activation="gelu", batch_first=True, norm_first=True
    )
    blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
    for layer in blocks.layers:  # torch copies the first; each is to begin with weights of its own
        for module in reversed(list(layer.modules())):  # an attention last: it sets the bias of its projection to 0
            if isinstance(module, nn.MultiheadAttention):
                module._reset_parameters()
            elif isinstance(module, nn.Linear):
                module.reset_parameters()
    return blocks


def sine_cosine_positions(rows: int, columns: int, dim: int) -> Float[Tensor, "n d"]:
    """Return the positions of a grid of patches, row by row: half of `dim` tells the column, half the row.

    Of each half, the k-th of K = dim / 4 sines and as many cosines is that of position * 10000^(-k / K): Vaswani et al.
    2017, arXiv:1706.03762, section 3.5, in two dimensions as in He et al. 2022, arXiv:2111.06377, appendix A.1.

    Raises:
        ValueError: 4 does not divide `dim`.
    """
    if dim % 4:
        raise ValueError(f"sine_cosine_positions: dim must be a multiple of 4; got {dim}")
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))  # (K,)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = []
    for position in (column, row):
        angles = position.flatten()[:, None] * frequencies  # (n, K)
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, 1).float()
