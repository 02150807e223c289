"""Residual networks (He et al. 2016, arXiv:1512.03385), by torchvision's blocks."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as Residual

from mlml.config import NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.layers.memory import channels_last
from mlml.models._network import Network, halved

BLOCKS = {18: (BasicBlock, [2, 2, 2, 2]), 34: (BasicBlock, [3, 4, 6, 3]), 50: (Bottleneck, [3, 4, 6, 3])}
"""Kind and number of blocks by depth: table 1 of the paper."""


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


PLAIN = {BasicBlock: PlainBasicBlock, Bottleneck: PlainBottleneck}


class ResNet(Network):
    """Torchvision's ResNet without its last layer; 512 features, 2048 at depth 50.

    The stem `imagenet` is the paper's: a 7x7 convolution and a max pooling, each of stride 2. The stem `cifar` is a 3x3
    convolution of stride 1 and no pooling (Chen et al. 2020, arXiv:2002.05709, appendix B.9), for small images.

    Raises:
        ValueError: the image is too small for the four stages.
    """

    class Config(NetworkConfig):
        """Numbers of the network.

        Attributes:
            residual: false leaves the shortcuts out, to show what they are worth.
        """

        network: Literal["resnet"] = "resnet"
        depth: Literal[18, 34, 50] = 18
        stem: Literal["cifar", "imagenet"] = "cifar"
        residual: bool = True

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        _refuse_small((spec.height, spec.width), config.stem)
        block, counts = BLOCKS[config.depth]
        trunk = Residual(block if config.residual else PLAIN[block], counts)
        for module in trunk.modules():
            if isinstance(module, PlainBasicBlock | PlainBottleneck):
                module.downsample = None  # of the shortcut
        self.feature_dim = int(trunk.fc.in_features)
        trunk.fc = nn.Identity()
        if config.stem == "cifar":
            trunk.conv1 = nn.Conv2d(spec.channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
            trunk.maxpool = nn.Identity()
        else:
            trunk.conv1 = nn.Conv2d(spec.channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        self.trunk = trunk

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        features: Tensor = self.trunk(channels_last(self.normalize(images)))
        return features


def _refuse_small(size: tuple[int, int], stem: str) -> None:
    layers = ["conv1", "maxpool"] if stem == "imagenet" else []
    way_out = "take 'stem: cifar' or prepare larger images" if stem == "imagenet" else "prepare larger images"
    for layer in [*layers, "layer2", "layer3", "layer4"]:
        size = halved(f"resnet: {layer}", size, way_out)
