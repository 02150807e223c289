"""Residual networks (He et al. 2016, arXiv:1512.03385), of torchvision's blocks."""

from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from mlml.config import NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.layers.memory import channels_last
from mlml.models._network import Network, halved

Block = type[BasicBlock] | type[Bottleneck]

BLOCKS: dict[int, tuple[Block, tuple[int, ...], int]] = {
    **{6 * n + 2: (BasicBlock, (n, n, n), 16) for n in (1, 2, 3, 5)},
    18: (BasicBlock, (2, 2, 2, 2), 64),
    34: (BasicBlock, (3, 4, 6, 3), 64),
    50: (Bottleneck, (3, 4, 6, 3), 64),
}
"""Kind of block, blocks of each stage and width of the first, by depth: the paper's section 4.2, then its table 1."""


class PlainBasicBlock(BasicBlock):  # type: ignore[misc]
    """The paper's block without its shortcut: the plain network that it compares with."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Both convolutions."""
        inner = self.relu(self.bn1(self.conv1(x)))
        outer: Tensor = self.relu(self.bn2(self.conv2(inner)))
        return outer


class PlainBottleneck(Bottleneck):  # type: ignore[misc]
    """The paper's bottleneck without its shortcut."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """All three convolutions."""
        inner = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        outer: Tensor = self.relu(self.bn3(self.conv3(inner)))
        return outer


PLAIN: dict[Block, Block] = {BasicBlock: PlainBasicBlock, Bottleneck: PlainBottleneck}


class ResNet(Network):
    """A stem, stages of residual blocks, and the mean over the grid.

    Depths 18, 34 and 50 are the four stages of the paper's table 1; 8, 14, 20 and 32 the three of its section 4.2, for
    small images. Each stage after the first halves the image and doubles the width, so that the features are `width`
    times 4 (three stages), 8 (four), or 32 (four of bottlenecks) wide.

    The stem `imagenet` is the paper's: a 7x7 convolution and a max pooling, each of stride 2. The stem `cifar` is a
    3x3 convolution of stride 1 and no pooling, for small images (section 4.2; Chen et al. 2020, arXiv:2002.05709,
    appendix B.9); `pooled` is that and the paper's pooling, a fourth of the work after it. A shortcut between
    stages is a 1x1 convolution (the paper's option B) at every depth, where its section 4.2 pads with zeros (option
    A); the stride of a bottleneck is in its 3x3 convolution, as torchvision's.

    Raises:
        ValueError: the image is too small for the stages.
    """

    class Config(NetworkConfig):
        """Numbers of the network.

        Attributes:
            width: channels of the first stage; null: the paper's, 16 with three stages and 64 with four.
            residual: false leaves the shortcuts out, to show what they are worth.
        """

        network: Literal["resnet"] = "resnet"
        depth: Literal[8, 14, 18, 20, 32, 34, 50] = 18
        width: PositiveInt | None = None
        stem: Literal["cifar", "pooled", "imagenet"] = "cifar"
        residual: bool = True

        @property
        def num_grids(self) -> int:
            return 3 if self.depth in (8, 14, 20, 32) else 4

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        block, counts, papers_width = BLOCKS[config.depth]
        _refuse_small(self.image_size, config.stem, len(counts))
        width = config.width or papers_width
        self.trunk = _trunk(spec.channels, block, counts, width, config)
        self.feature_dim = width * 2 ** (len(counts) - 1) * block.expansion

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        grid: Tensor = self.trunk(channels_last(self.normalize(images)))  # (b, d, h_s, w_s)
        return grid.mean((2, 3))

    def grids(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c_s h_s w_s"]]:
        """What each stage of residual blocks leaves."""
        grid, found = channels_last(self.normalize(images)), []
        for name, layer in self.trunk.named_children():
            grid = layer(grid)
            if name.startswith("layer"):
                found.append(grid)
        return found

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        try:
            _refuse_small(size, self.config.stem, len(BLOCKS[self.config.depth][1]))
        except ValueError:
            return self.image_size
        return size


def _trunk(channels: int, block: Block, counts: tuple[int, ...], width: int, config: ResNet.Config) -> nn.Sequential:
    """Stem and stages, named and initialised as torchvision's; convolutions draw He's normal weights by the fan-out."""
    trunk = nn.Sequential()
    if config.stem == "imagenet":
        trunk.add_module("conv1", nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False))
    else:
        trunk.add_module("conv1", nn.Conv2d(channels, width, kernel_size=3, stride=1, padding=1, bias=False))
    trunk.add_module("bn1", nn.BatchNorm2d(width))
    trunk.add_module("relu", nn.ReLU(inplace=True))
    if config.stem != "cifar":
        trunk.add_module("maxpool", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    before = width
    for stage, count in enumerate(counts):
        stride = 1 if stage == 0 else 2
        blocks = [_block(block, before, width * 2**stage, stride, config.residual)]
        before = width * 2**stage * block.expansion
        blocks += [_block(block, before, width * 2**stage, 1, config.residual) for _ in range(count - 1)]
        trunk.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


def _block(block: Block, before: int, planes: int, stride: int, residual: bool) -> BasicBlock | Bottleneck:
    """One block, with a projection where its shortcut changes the shape; without a shortcut if not residual."""
    if not residual:
        return PLAIN[block](before, planes, stride)
    after = planes * block.expansion
    projection = None
    if stride > 1 or before != after:
        projection = nn.Sequential(
            nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(after)
        )
    return block(before, planes, stride, projection)


def _refuse_small(size: tuple[int, int], stem: str, num_stages: int) -> None:
    layers = {"cifar": [], "pooled": ["maxpool"], "imagenet": ["conv1", "maxpool"]}[stem]
    way_out = "prepare larger images" if stem == "cifar" else "take 'stem: cifar' or prepare larger images"
    for layer in [*layers, *(f"layer{stage}" for stage in range(2, num_stages + 1))]:
        size = halved(f"resnet: {layer}", size, way_out)
