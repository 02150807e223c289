"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), of torch's own encoder layers.

Notation: n patches, d = `dim`; t tokens, n of patches and, with a class token, one before them.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from mlml.config import BelowOne, NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.layers.transformer import transformer
from mlml.models._network import Network


class ViT(Network):
    """Patches as tokens, pre-norm transformer layers with GELU, a layer norm, and the class token or the mean.

    Eq. 1 to 4 of the paper. Positions are learnt, one for each token of an image of the size it was built for. To
    another size they are interpolated by bicubic splines, as in section 3.2 of the paper and in the code of Caron et
    al. 2021, arXiv:2104.14294.

    Raises:
        ValueError: the image is not made of whole patches, or the heads do not divide `dim`.
    """

    class Config(NetworkConfig):
        """Numbers of the network; the defaults are for images of 32x32 on two CPU cores.

        Attributes:
            pooling: the features are the class token, or the mean over the patches' tokens.
            mlp_ratio: width of the hidden layer of each block, in units of `dim`.
        """

        network: Literal["vit"] = "vit"
        patch_size: PositiveInt = 4
        dim: PositiveInt = 96
        depth: PositiveInt = 4
        num_heads: PositiveInt = 3
        mlp_ratio: PositiveFloat = 4.0
        pooling: Literal["class_token", "mean"] = "mean"
        dropout_prob: BelowOne = 0.0

    has_tokens = True

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        _refuse_misfits(config, spec)
        self.feature_dim = config.dim
        self.patches = nn.Conv2d(spec.channels, config.dim, kernel_size=config.patch_size, stride=config.patch_size)
        self.grid = (spec.height // config.patch_size, spec.width // config.patch_size)
        num_tokens = self.grid[0] * self.grid[1]
        self.class_token: nn.Parameter | None = None
        if config.pooling == "class_token":
            self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, config.dim), std=0.02))
            num_tokens += 1
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, num_tokens, config.dim), std=0.02))
        hidden = round(config.dim * config.mlp_ratio)
        self.blocks = transformer(config.dim, config.num_heads, hidden, config.dropout_prob, config.depth)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        tokens = self.encode_tokens(self.tokens(images))  # (b, t, d)
        features: Tensor = tokens.mean(1) if self.class_token is None else tokens[:, 0]
        return features

    def tokens(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of all patches, row by row: each a function of its patch alone, plus its position (Eq. 1)."""
        patches = self.patches(self.normalize(images))  # (b, d, h_p, w_p)
        tokens: Tensor = patches.flatten(2).transpose(1, 2) + self._patch_positions(patches.shape[2:])
        return tokens

    def encode_tokens(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "b t d"]:
        """Pass the tokens of some patches, or of all, through the blocks; the class token, if any, comes first."""
        if self.class_token is not None:
            first = self.class_token + self.positions[:, :1]
            tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], 1)  # (b, t, d)
        encoded: Tensor = self.blocks(tokens)
        return encoded

    @property
    def num_class_tokens(self) -> int:
        """How many tokens stand before those of the patches."""
        return 0 if self.class_token is None else 1

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        patch = self.config.patch_size
        return max(1, round(size[0] / patch)) * patch, max(1, round(size[1] / patch)) * patch

    def _patch_positions(self, grid: Sequence[int]) -> Float[Tensor, "1 n d"]:
        """Positions of the patches of an image of height x width patches."""
        learnt = self.positions[:, self.num_class_tokens :]
        if tuple(grid) == self.grid:
            return learnt
        num_patches = self.grid[0] * self.grid[1]
        # a product with the weights of the splines: torch's gradient of `interpolate` differs from run to run on a GPU
        splines = torch.eye(num_patches, dtype=learnt.dtype, device=learnt.device).view(1, num_patches, *self.grid)
        splines = F.interpolate(splines, tuple(grid), mode="bicubic", align_corners=False)[0]  # (n, h_p, w_p)
        return splines.flatten(1).T @ learnt


def _refuse_misfits(config: ViT.Config, spec: DataSpec) -> None:
    if spec.height % config.patch_size or spec.width % config.patch_size:
        raise ValueError(
            f"vit: patch_size must divide both sides of the {spec.height}x{spec.width} images; got {config.patch_size}"
        )
    if config.dim % config.num_heads:
        raise ValueError(f"vit: num_heads must divide dim, {config.dim}; got {config.num_heads}")
