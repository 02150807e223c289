"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597): what it tells of a pixel knows the whole and the detail.

Notation: `s` counts stages from the full grid (1) to the coarsest; (h_s, w_s) is the grid of stage s and c_s its width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from mlml import activations
from mlml.config import ActivationConfig, NetworkConfig, NormConfig, PlainActivation, PlainNorm
from mlml.data.dataset import DataSpec
from mlml.layers import arithmetic, norm
from mlml.layers.memory import channels_last
from mlml.models._network import Network


class UNet(Network):
    """A path down by max poolings, a path up by 2x2 transposed convolutions, and between them the skip connections.

    The paper's figure 1: each stage is two 3x3 convolutions; going down halves the grid and doubles the width, and on
    the way up a stage takes what the same stage made on the way down beside what comes from below. Unlike the paper's,
    the convolutions pad, so that the last grid is as large as the image, and each has a norm. An odd side is halved
    upwards, and cut by one where it is doubled again, so images need not be of a power of two.

    The features of a pixel are `width` wide. Those of an image are the mean over the coarsest grid beside the mean over
    the last: `width` * 2 ** (`num_stages` - 1) + `width` numbers.

    Raises:
        ValueError: the image is too small for so many stages, or the norm does not fit one.
    """

    is_dense = True

    class Config(NetworkConfig):
        """Numbers of the network; the paper's are `width: 64`, `num_stages: 5` and `norm: none`."""

        network: Literal["unet"] = "unet"
        width: PositiveInt = 16
        num_stages: PositiveInt = 4
        activation: ActivationConfig = PlainActivation(name="relu")
        norm: NormConfig = PlainNorm(name="batch")

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        _refuse_small(config, (spec.height, spec.width))
        widths = [config.width * 2**stage for stage in range(config.num_stages)]
        self.down, self.up, self.joined = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, (before, after) in enumerate(zip([spec.channels, *widths], widths, strict=False), 1):
            self.down.append(_stage(config, before, after, f"unet: stage {stage}"))
        for stage in range(config.num_stages - 1, 0, -1):
            wide, narrow = widths[stage], widths[stage - 1]
            self.up.append(nn.ConvTranspose2d(wide, narrow, kernel_size=2, stride=2))
            self.joined.append(_stage(config, 2 * narrow, narrow, f"unet: stage {stage}"))
        self.dense_dim = config.width
        self.feature_dim = widths[-1] + config.width

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        coarsest, last = self._run(images)
        return torch.cat([coarsest.mean((2, 3)), last.mean((2, 3))], 1)

    def dense(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features of every pixel of images in [0, 1]."""
        return self._run(images)[1]

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The coarsest grid (b, c_S, h_S, w_S), and the last (b, c_1, h, w)."""
        grid: Tensor = self.down[0](channels_last(self.normalize(images)))
        skipped: list[Tensor] = []
        for stage in list(self.down)[1:]:
            skipped.append(grid)
            grid = stage(F.max_pool2d(grid, 2, ceil_mode=True))  # (b, c_s, h_s, w_s)
        coarsest = grid
        for up, joined in zip(self.up, self.joined, strict=True):
            skip = skipped.pop()
            grid = up(grid)[..., : skip.shape[2], : skip.shape[3]]  # (b, c_s, h_s, w_s)
            grid = joined(torch.cat([skip, grid], 1))
        return coarsest, grid


def _stage(config: UNet.Config, before: int, after: int, place: str) -> nn.Sequential:
    """Two convolutions, each with norm and activation."""
    bias = not norm.has_bias(config.norm)
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, kernel_size=3, padding=1, bias=bias),
            norm.build(config.norm, after, True, place),
            activations.build(config.activation),
        ]
    return nn.Sequential(*layers)


def _refuse_small(config: UNet.Config, size: tuple[int, int]) -> None:
    """Refuse a pooling without one whole window, and an instance norm of one pixel."""
    for stage in range(1, config.num_stages + 1):
        height, width = size
        way_out = f"lower num_stages to {max(stage - 1, 1)} or prepare larger images"
        if stage > 1:
            for side in (arithmetic.pooling(height, 2, 2), arithmetic.pooling(width, 2, 2)):
                if side.size < 1:
                    raise ValueError(
                        f"unet: stage {stage} (max_pooling, kernel 2, stride 2): its input is {height}x{width}, and "
                        f"{side.formula} = {side.size} is less than 1; {way_out}"
                    )
            size = ((height + 1) // 2, (width + 1) // 2)
        if config.norm.name == "instance" and size == (1, 1):
            raise ValueError(f"unet: stage {stage}: an instance norm needs more than one pixel; got 1x1; {way_out}")
