"""What a network or method is told of made-up data."""

from mlml.data.dataset import DataSpec


def make_spec(
    channels: int = 1,
    height: int = 8,
    width: int = 8,
    mean: float = 0.0,
    std: float = 1.0,
    classes: tuple[str, ...] = (),
) -> DataSpec:
    """A spec whose channels all have the same mean and standard deviation."""
    return DataSpec(
        name="made",
        channels=channels,
        height=height,
        width=width,
        classes=classes,
        mean=(mean,) * channels,
        std=(std,) * channels,
        sizes={},
        source={},
        hashes={},
    )
