"""The closed table of norms, for vectors and for images."""

from torch import nn

from mlml.config import GroupNormConfig, NormConfig


def build(config: NormConfig, num_features: int, images: bool, layer: str) -> nn.Module:
    """Construct the declared norm.

    Args:
        config: which one.
        num_features: width of the vectors, or channels of the images.
        images: the input is (b, c, h, w); else (b, d).
        layer: its place in the network, the beginning of an error sentence.

    Raises:
        ValueError: the groups do not divide the features, or an instance norm is to be taken of one number.
    """
    if isinstance(config, GroupNormConfig):
        if num_features % config.num_groups:
            raise ValueError(
                f"{layer}: norm.num_groups must divide the {num_features} features; got {config.num_groups}"
            )
        return nn.GroupNorm(config.num_groups, num_features)
    match config.name:
        case "none":
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(num_features) if images else nn.BatchNorm1d(num_features)
        case "layer":
            return nn.GroupNorm(1, num_features) if images else nn.LayerNorm(num_features)
        case "instance":
            if not images:
                raise ValueError(f"{layer}: an instance norm needs images; a vector has one number for each feature")
            return nn.InstanceNorm2d(num_features, affine=True)


def has_bias(config: NormConfig) -> bool:
    """Whether the norm adds a bias of its own, so that the layer before it needs none."""
    return config.name != "none"
