"""Normalisation of images by the statistics of their data set."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtract the mean of each channel and divide by its standard deviation.

    Both are buffers: they move and are saved with the network, so that a loaded one takes plain images.

    Args:
        mean: one number per channel, of images in [0, 1].
        std: the same.

    Raises:
        ValueError: as many means as deviations are not given, or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"normalize: 'mean' and 'std' must be equally long; got {len(mean)} and {len(std)}")
        for channel, deviation in enumerate(std):
            if not deviation > 0:
                raise ValueError(
                    f"normalize: 'std' of channel {channel} must be greater than 0; got {deviation}; "
                    "leave out a channel that is the same in every train image"
                )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))  # (c, 1, 1)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))  # (c, 1, 1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise images in [0, 1].

        Raises:
            ValueError: the images have another number of channels, which broadcasting would hide.
        """
        if images.shape[1] != len(self.mean):
            raise ValueError(f"normalize: images must have {len(self.mean)} channels; got {images.shape[1]}")
        return (images - self.mean) / self.std
