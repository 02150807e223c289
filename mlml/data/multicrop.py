"""Multi-crop: two global crops of each image, and several smaller local ones (Caron et al. 2020, arXiv:2006.09882)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mlml.config import MultiCropConfig
from mlml.data.augment import simclr_view


class Crops(NamedTuple):
    """Crops of each image of a batch."""

    wide: Float[Tensor, "b 2 c h w"]  # global, of the images' size
    local: Float[Tensor, "b l c H W"]  # l may be 0


def multi_crop(
    images: Float[Tensor, "b c h w"],
    config: MultiCropConfig,
    local_size: tuple[int, int],
    generator: torch.Generator,
) -> Crops:
    """Draw the crops of each image, and augment each crop by itself.

    Caron et al. 2020, section 3.2. The crops are bilinear with antialiasing, where DINO's authors take bicubic ones.

    Args:
        images: in [0, 1], of 1 or 3 channels.
        config: how many local crops, and the augmentation of each kind.
        local_size: height and width of a local crop in pixels; `config.local_size` is left to the caller, who knows
            what the network takes.
        generator: on the device of the images; all randomness comes from it.

    Raises:
        ValueError: a blur kernel too wide for the crops.
    """
    wide = torch.stack([simclr_view(images, view, generator) for view in (config.first, config.second)], 1)
    if not config.num_local:
        return Crops(wide, images.new_empty(len(images), 0, images.shape[1], *local_size))
    # each image's copies side by side: so a rank's images are a run of the rows that every rank draws for
    copies = images.repeat_interleave(config.num_local, 0)  # (b l, c, h, w)
    local = simclr_view(copies, config.local, generator, local_size)
    return Crops(wide, torch.unflatten(local, 0, (len(images), config.num_local)))
