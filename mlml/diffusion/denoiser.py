"""The denoising U-Net of Ho et al. 2020, arXiv:2006.11239, appendix B; conditions as in Nichol et al. 2022 (GLIDE).

Notation: `s` counts grids from the largest (0) on; (h_s, w_s) is grid s and c_s its width; p is the side of a patch.
`e` is the width of the embedding of time and condition, l the number of text tokens and d their width.
"""

import math
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml.config import DenoiserConfig
from mlml.layers.deconvolution import UpsampleConv2d

L = TypeVar("L", nn.Linear, nn.Conv2d)


def time_embedding(t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b d"]:
    """Sines, then cosines of t at `dim` / 2 frequencies from 1 to 1 / 10000 (Vaswani et al. 2017, section 3.5).

    With t of 0 .. 999 the frequencies are as in Ho et al. 2020 and Dhariwal & Nichol 2021: 10000^(-k / K).

    Raises:
        ValueError: `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"time_embedding: dim must be even; got {dim}")
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device))  # (K,)
    angles = t.float()[:, None] * frequencies  # (b, K)
    return torch.cat([angles.sin(), angles.cos()], 1)


class Denoiser(nn.Module):
    """From a noised image and its timestep to a prediction of the image's shape.

    On each grid are residual blocks with group norm and swish, on some with self-attention behind; time enters every
    residual block. Going up, each block takes what its counterpart made on the way down beside what comes from below.
    The last layer, and the last of each block and attention, begin with weights of 0. An odd side is halved upwards,
    and cut by one where it is doubled again.

    With patches of more than a pixel the first grid has a place for each of them, whose channels are those of all its
    pixels, and so has the prediction before it is laid out again.

    A condition of the whole image is added to the embedding of time; tokens are further keys and values of every
    attention (Nichol et al. 2022, section 4).

    Args:
        config: its numbers.
        channels: of the noised image, and of what is known of it beside.
        out_channels: of the prediction.
        size: height and width of the image.
        condition_dim: width of a condition; 0 for none.
        token_dim: width of tokens; 0 for none.

    Raises:
        ValueError: the image is too small, patches do not divide it, no grid has a declared resolution, or the groups
            or heads do not divide a width.
    """

    def __init__(
        self,
        config: DenoiserConfig,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        condition_dim: int = 0,
        token_dim: int = 0,
    ) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.sizes = _grids(config, size)
        self.width, embedding_dim = config.width, 4 * config.width
        widths = [config.width * multiplier for multiplier in config.multipliers]
        _refuse_widths(config, [config.width, *widths])
        self.time = nn.Sequential(
            nn.Linear(config.width, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        self.condition = nn.Linear(condition_dim, embedding_dim) if condition_dim else None

        def block(before: int, after: int, grid: int) -> _Block:
            attends = grid == len(widths) or self.sizes[grid][0] in config.attention_resolutions
            return _Block(config, before, after, embedding_dim, token_dim, attends)

        pixels = config.patch_size**2
        self.first = nn.Conv2d(channels * pixels, config.width, 3, padding=1)
        self.down, self.halve, self.up, self.enlarge = (nn.ModuleList() for _ in range(4))
        width, skipped = config.width, [config.width]
        for grid, after in enumerate(widths):
            befores = [width] + [after] * (config.num_blocks - 1)
            self.down.append(nn.ModuleList(block(before, after, grid) for before in befores))
            width = after
            skipped += [width] * config.num_blocks
            if grid < len(widths) - 1:
                self.halve.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skipped.append(width)
        self.middle = nn.ModuleList([block(width, width, len(widths)), _Block(config, width, width, embedding_dim)])
        for grid in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for _ in range(config.num_blocks + 1):
                blocks.append(block(width + skipped.pop(), widths[grid], grid))
                width = widths[grid]
            self.up.append(blocks)
            if grid:
                self.enlarge.append(UpsampleConv2d(width, width))
        last = _zero(nn.Conv2d(width, out_channels * pixels, 3, padding=1))
        self.last = nn.Sequential(_norm(config, width), nn.SiLU(), last)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        condition: Float[Tensor, "b k"] | None = None,
        tokens: Float[Tensor, "b l d"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """Predict what of the noised images `x` the objective asks for, at timesteps `t`."""
        embedding = self.time(time_embedding(t, self.width))  # (b, e)
        if self.condition is not None:
            embedding = embedding + self.condition(condition)
        embedding = F.silu(embedding)
        grid = self.first(F.pixel_unshuffle(x, self.patch_size))  # (b, c_0, h / p, w / p)
        skipped = [grid]
        for number, blocks in enumerate(self.down):
            for block in cast(nn.ModuleList, blocks):
                grid = block(grid, embedding, tokens)  # (b, c_s, h_s, w_s)
                skipped.append(grid)
            if number < len(self.halve):
                grid = self.halve[number](grid)
                skipped.append(grid)
        for block in self.middle:
            grid = block(grid, embedding, tokens)
        for number, blocks in enumerate(self.up):
            for block in cast(nn.ModuleList, blocks):
                grid = block(torch.cat([grid, skipped.pop()], 1), embedding, tokens)
            if number < len(self.enlarge):
                height, width = self.sizes[-2 - number]
                grid = self.enlarge[number](grid)[..., :height, :width]
        return F.pixel_shuffle(self.last(grid), self.patch_size)


class _Block(nn.Module):
    """A residual block into which time enters, and an attention behind it."""

    def __init__(
        self,
        config: DenoiserConfig,
        before: int,
        after: int,
        embedding_dim: int,
        token_dim: int = 0,
        attends: bool = False,
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(config, before), nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(embedding_dim, after)
        self.norm2, self.conv2 = _norm(config, after), _zero(nn.Conv2d(after, after, 3, padding=1))
        self.dropout = nn.Dropout(config.dropout_prob)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.attention = _Attention(config, after, token_dim) if attends else None

    def forward(self, grid: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(grid))) + self.time(embedding)[:, :, None, None]
        grid = self.shortcut(grid) + self.conv2(self.dropout(F.silu(self.norm2(inner))))
        return grid if self.attention is None else self.attention(grid, tokens)


class _Attention(nn.Module):
    """Every pixel of a grid attends to all, and to the text tokens where there are some."""

    def __init__(self, config: DenoiserConfig, width: int, token_dim: int) -> None:
        super().__init__()
        self.num_heads, self.norm = config.num_heads, _norm(config, width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), _zero(nn.Linear(width, width))
        self.token_to_kv = nn.Linear(token_dim, 2 * width) if token_dim else None

    def forward(self, grid: Tensor, tokens: Tensor | None) -> Tensor:
        pixels = self.norm(grid).flatten(2).transpose(1, 2)  # (b, h w, c)
        q, k, v = self.to_qkv(pixels).chunk(3, dim=2)
        if self.token_to_kv is not None:
            token_k, token_v = self.token_to_kv(tokens).chunk(2, dim=2)  # (b, l, c)
            k, v = torch.cat([k, token_k], 1), torch.cat([v, token_v], 1)
        split = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # (b, heads, n, c')
        attended = _attend(*split).transpose(1, 2).flatten(2)  # (b, h w, c)
        added: Tensor = self.out(attended).transpose(1, 2).reshape(grid.shape)
        return grid + added


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(c')) v, of (b, heads, n, c').

    In bfloat16 on a processor, torch's fused kernel takes three times as long as the three steps one by one.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def _zero(layer: L) -> L:
    """Let a layer begin with weights of 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _norm(config: DenoiserConfig, width: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.num_groups, width)


def _grids(config: DenoiserConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of all grids, the largest first."""
    if any(side % config.patch_size for side in size):
        raise ValueError(
            f"denoiser: patch_size must divide an image of {size[0]}x{size[1]}; got {config.patch_size}; prepare "
            "images of another size"
        )
    sizes = [(size[0] // config.patch_size, size[1] // config.patch_size)]
    for _ in config.multipliers[1:]:
        if min(sizes[-1]) < 2:
            height, width = sizes[0]
            raise ValueError(
                f"denoiser: a grid of {height}x{width} cannot be halved {len(config.multipliers) - 1} times; give "
                f"at most {len(sizes)} multipliers"
            )
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    heights = [height for height, _ in sizes]
    for resolution in config.attention_resolutions:
        if resolution not in heights:
            raise ValueError(
                f"denoiser: attention_resolutions must be heights of its grids, {', '.join(map(str, heights))}; got "
                f"{resolution}"
            )
    return sizes


def _refuse_widths(config: DenoiserConfig, widths: list[int]) -> None:
    for name, number in (("num_groups", config.num_groups), ("num_heads", config.num_heads)):
        for width in widths:
            if width % number:
                raise ValueError(f"denoiser: {name} must divide every width, of which one is {width}; got {number}")
