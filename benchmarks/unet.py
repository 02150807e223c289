"""The U-Net of diffusers that computes what our denoiser does, with the same weights."""

import torch
from diffusers import UNet2DModel
from torch import nn

from mlml.config import DenoiserConfig
from mlml.diffusion.denoiser import Denoiser


def peer_unet(config: DenoiserConfig, channels: int, side: int) -> UNet2DModel:
    """Return diffusers' network of the same widths, blocks and attentions, untrained.

    Raises:
        ValueError: several heads, of which the peer is told otherwise.
    """
    if config.num_heads != 1:
        raise ValueError(f"denoiser: num_heads must be 1 here; got {config.num_heads}")
    attends = ["Attn" * (side >> grid in config.attention_resolutions) for grid in range(len(config.multipliers))]
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=config.num_blocks,
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        down_block_types=tuple(f"{attention}DownBlock2D" for attention in attends),
        up_block_types=tuple(f"{attention}UpBlock2D" for attention in reversed(attends)),
        norm_num_groups=config.num_groups,
        attention_head_dim=None,
        dropout=config.dropout_prob,
        flip_sin_to_cos=False,
    )


@torch.no_grad()
def hand_over(ours: Denoiser, theirs: UNet2DModel) -> None:
    """Give the peer our weights, every one of which it has."""
    given = 0

    def give(source: nn.Module, target: nn.Module) -> None:
        nonlocal given
        for name, parameter in source.named_parameters(recurse=False):
            target.get_parameter(name).copy_(parameter)
            given += parameter.numel()

    def give_block(block: nn.Module, resnet: nn.Module, attention: nn.Module | None) -> None:
        nonlocal given
        for name in ("norm1", "conv1", "norm2", "conv2"):
            give(getattr(block, name), getattr(resnet, name))
        give(block.time, resnet.time_emb_proj)
        if isinstance(block.shortcut, nn.Conv2d):
            give(block.shortcut, resnet.conv_shortcut)
        if block.attention is not None:
            give(block.attention.norm, attention.group_norm)
            give(block.attention.out, attention.to_out[0])
            for name, parameter in block.attention.to_qkv.named_parameters():
                for part, target in zip(parameter.chunk(3), ("to_q", "to_k", "to_v"), strict=True):
                    getattr(attention, target).get_parameter(name).copy_(part)
                given += parameter.numel()

    give(ours.first, theirs.conv_in)
    give(ours.time[0], theirs.time_embedding.linear_1)
    give(ours.time[2], theirs.time_embedding.linear_2)
    stages = [*zip(ours.down, theirs.down_blocks, strict=True), (ours.middle, theirs.mid_block)]
    for blocks, stage in [*stages, *zip(ours.up, theirs.up_blocks, strict=True)]:
        attentions = getattr(stage, "attentions", None) or [None] * len(blocks)
        for number, block in enumerate(blocks):
            give_block(block, stage.resnets[number], attentions[number] if number < len(attentions) else None)
    for convolution, stage in zip(ours.halve, theirs.down_blocks[:-1], strict=True):
        give(convolution, stage.downsamplers[0].conv)
    for convolution, stage in zip(ours.enlarge, theirs.up_blocks[:-1], strict=True):
        give(convolution, stage.upsamplers[0].conv)
    give(ours.last[0], theirs.conv_norm_out)
    give(ours.last[2], theirs.conv_out)
    own, other = (sum(parameter.numel() for parameter in module.parameters()) for module in (ours, theirs))
    if not given == own == other:
        raise ValueError(
            f"networks: must have the same parameters; got {own:,} and {other:,}, of which {given:,} alike"
        )
