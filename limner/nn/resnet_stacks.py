"""Convolutional encoder and decoder between an image and a smaller map of vectors: the first stages of latent generative models.

Esser, Rombach & Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", table 7; the same in Rombach et al. 2022. At each
resolution ResNet blocks of GroupNorm, SiLU and 3 x 3 convolution; between them a strided convolution on the way down, repeated pixels and
a convolution on the way up; in the middle, at the lowest resolution, two blocks about a layer of self-attention.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from limner.errors import UserError
from limner.nn.attention import SelfAttention2d
from limner.nn.unet import GROUP, Downsample, Upsample, group_norm, near_zero


class ResBlock(nn.Module):
    """(B, before, H, W) -> (B, after, H, W): x + conv(act(norm(conv(act(norm(x)))))), the identity at first where channels stay."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1, self.norm2 = group_norm(before), group_norm(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = near_zero(nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class MapEncoder(nn.Sequential):
    """(B, channels, H, W) -> (B, outputs, H / f, W / f) with f = 2^(len(multipliers) - 1).

    Args:
        channels: of the image.
        outputs: channels of the map.
        width: channels of the feature maps; a multiple of 8.
        multipliers: of `width`, at each resolution from the image's down.
        blocks: ResNet blocks at each resolution.
        attention: whether the middle has a layer of self-attention.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        *,
        attention: bool = True,
    ):
        widths = level_widths(width, multipliers)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), *level(widths[0], widths[0], blocks)]
        for before, after in pairwise(widths):
            layers += [Downsample(before), *level(before, after, blocks)]
        super().__init__(*layers, *middle(widths[-1], attention), *head(widths[-1], outputs))


class MapDecoder(nn.Sequential):
    """(B, inputs, h, w) -> (B, channels, f h, f w): the encoder's mirror image, with one more block at each resolution.

    The arguments are the encoder's; `multipliers` still begins at the image.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        *,
        attention: bool = True,
    ):
        widths = level_widths(width, multipliers)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1), *middle(widths[0], attention)]
        layers += level(widths[0], widths[0], blocks + 1)
        for before, after in pairwise(widths):
            layers += [Upsample(before), *level(before, after, blocks + 1)]
        super().__init__(*layers, *head(widths[-1], channels))

    @property
    def last(self) -> Tensor:
        """The weights of the last layer, in which Esser et al. weigh the gradients of the losses."""
        layer = self[-1]
        assert isinstance(layer, nn.Conv2d)
        return layer.weight


def level_widths(width: int, multipliers: tuple[int, ...]) -> list[int]:
    """Channels at each resolution.

    Raises:
        UserError: they cannot be split into groups.
    """
    if width % GROUP:
        raise UserError(f"--model.width {width} is no multiple of {GROUP}, the channels in a group of GroupNorm")
    return [width * m for m in multipliers]


def level(before: int, after: int, blocks: int) -> list[nn.Module]:
    """The ResNet blocks of one resolution, of which the first changes the number of channels."""
    return [ResBlock(before if i == 0 else after, after) for i in range(blocks)]


def middle(width: int, attention: bool) -> list[nn.Module]:
    attend: list[nn.Module] = [SelfAttention2d(width, norm=group_norm(width))] if attention else []
    return [ResBlock(width, width), *attend, ResBlock(width, width)]


def head(width: int, outputs: int) -> list[nn.Module]:
    return [group_norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1)]
