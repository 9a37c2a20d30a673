"""The time-conditioned U-Net of the diffusion models.

Ho et al. 2020 (Denoising Diffusion Probabilistic Models, appendix B): ResNet blocks of GroupNorm, SiLU and 3x3 convolution, a sinusoidal
embedding of the time, self-attention at the coarse resolutions, a skip from every block of the way down to one of the way up.
The time enters as in Nichol & Dhariwal 2021 (appendix A; "adaptive group normalisation" in Dhariwal & Nichol 2021, section 3.1):
it scales and shifts what the second GroupNorm of a block gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.errors import UserError
from limner.nn.attention import SelfAttention2d

GROUP = 8
"""Channels in a group of GroupNorm. (Ho et al. have 32 groups, which is 4 to 16 channels at their widths.)"""


def sinusoidal_embedding(t: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """(B,) times, whole or not, of order 1 to 1000 -> (B, channels) cosines and sines (Vaswani et al. 2017, section 3.5)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP, channels)


def near_zero(layer: nn.Module) -> nn.Module:
    """Start a layer that ends a residual branch near zero, so that a deep net starts near the identity (not at zero, where
    nothing before it would get a gradient)."""
    nn.init.normal_(layer.weight, std=1e-4)
    nn.init.zeros_(layer.bias)
    return layer


def adaptive_group_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """GroupNorm with a scale and a shift (B, C) for each sample: (1 + scale) * normalised x + shift.

    The batch is folded into the channels, so that one native kernel does all of it, forward and backward.
    """
    B, C, H, W = x.shape
    weight, bias = (1 + scale).reshape(-1), shift.reshape(-1)
    return F.group_norm(x.reshape(1, B * C, H, W), B * C // GROUP, weight, bias).view(B, C, H, W)


class ResBlock(nn.Module):
    """(B, channels_in, H, W), embedding (B, E) -> (B, channels_out, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float):
        super().__init__()
        self.norm = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = near_zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm(x)))
        scale, shift = self.affine(embedding).chunk(2, dim=1)
        h = F.silu(adaptive_group_norm(h, scale, shift))
        return self.shortcut(x) + self.conv2(self.dropout(h))


class Downsample(nn.Conv2d):
    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Each pixel four times (nearest neighbour), then a 3x3 convolution: (B, C, H, W) -> (B, C, 2H, 2W).

    Both at once: repeating pixels is a convolution with a 2x2 box of ones, and two convolutions in a row are one with the
    convolved kernel, here 4x4 at stride 2. That takes 4/9 of the multiplications (and keeps clear of `F.interpolate`, whose
    compiled bfloat16 gradients were zero on CPUs).
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        w = F.pad(self.weight, (1, 1, 1, 1))
        w = w[..., 1:, 1:] + w[..., 1:, :-1] + w[..., :-1, 1:] + w[..., :-1, :-1]  # (C, C, 4, 4)
        # A transposed convolution scatters: its kernel has input channels first and is turned by half a circle.
        return F.conv_transpose2d(x, w.transpose(0, 1).flip(2, 3), self.bias, stride=2, padding=1)


class UNet(nn.Module):
    """A network that gives an image-shaped answer for a noisy image and its time.

    Args:
        channels_in, channels_out: of the images that enter and leave.
        width: channels at full resolution; a multiple of 8.
        multipliers: channels at each level as multiples of `width`; each further level has half the resolution.
        blocks: ResNet blocks a level on the way down (one more on the way up, as in Ho et al.).
        attention: the reductions at which every block is followed by self-attention: 4 is a quarter of the image's size.
            The middle always has it.
        head_channels: channels of an attention head.
        dropout: before the second convolution of each block.
        classes: number of labels, 0 for none. The label `classes` itself stands for "no label".
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (4,),
        head_channels: int = 32,
        dropout: float = 0.0,
        classes: int = 0,
    ):
        super().__init__()
        if width % GROUP:
            raise UserError(
                f"width must be a multiple of {GROUP} (channels are normalised in groups of {GROUP}): {width} is not"
            )
        reductions = [2**i for i in range(len(multipliers))]
        if wrong := set(attention) - set(reductions):
            raise UserError(
                f"attention names the reduction {min(wrong)}, but {len(multipliers)} levels have {reductions}"
            )
        self.width = width
        self.reduction = reductions[-1]
        E = 4 * width
        self.time = nn.Sequential(nn.Linear(width, E), nn.SiLU(), nn.Linear(E, E))
        self.label = nn.Embedding(classes + 1, E) if classes else None

        def stage(channels_in: int, channels_out: int, attend: bool) -> nn.ModuleList:
            block = nn.ModuleList([ResBlock(channels_in, channels_out, E, dropout)])
            if attend:
                block.append(SelfAttention2d(channels_out, head_channels=head_channels, norm=group_norm(channels_out)))
            return block

        channels = width
        skips = [channels]
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for r, m in zip(reductions, multipliers, strict=True):
            for _ in range(blocks):
                self.down.append(stage(channels, width * m, r in attention))
                channels = width * m
                skips.append(channels)
            if r != reductions[-1]:
                self.down.append(nn.ModuleList([Downsample(channels)]))
                skips.append(channels)
        self.middle = stage(channels, channels, True)
        self.middle.append(ResBlock(channels, channels, E, dropout))
        self.up = nn.ModuleList()
        for r, m in reversed(list(zip(reductions, multipliers, strict=True))):
            for _ in range(blocks + 1):
                self.up.append(stage(channels + skips.pop(), width * m, r in attention))
                channels = width * m
            if r != 1:
                self.up[-1].append(Upsample(channels))
        self.norm = group_norm(channels)
        self.last = near_zero(nn.Conv2d(channels, channels_out, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) on a scale of 0 to about 1000, label (B,) int64 -> (B, channels_out, H, W)."""
        embedding = self.time(sinusoidal_embedding(t, self.width))  # (B, E)
        if self.label is not None:
            embedding = embedding + self.label(label)
        embedding = F.silu(embedding)

        def run(layers: nn.ModuleList, h: Tensor) -> Tensor:
            for layer in layers:
                h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
            return h

        h = self.first(x)
        skips = [h]
        for layers in self.down:
            h = run(layers, h)
            skips.append(h)
        h = run(self.middle, h)
        for layers in self.up:
            h = run(layers, torch.cat([h, skips.pop()], dim=1))
        return self.last(F.silu(self.norm(h)))


def check_size(size: int, levels: int) -> None:
    """Raise a UserError unless images of `size` pixels can be halved `levels` - 1 times."""
    step = 2 ** (levels - 1)
    if size % step or size < step:
        most = next(n for n in range(levels - 1, 0, -1) if size % 2 ** (n - 1) == 0)
        below, above = size // step * step, -(-size // step) * step
        sizes = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"a U-Net of {levels} levels halves the image {levels - 1} times: {size} px is no multiple of {step}. "
            f"Use images of {sizes} px, or at most {most} level{'s' if most > 1 else ''} (fewer multipliers)"
        )
