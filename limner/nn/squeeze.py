"""Squeezing: trading resolution for channels, as multi-scale flows do (Dinh et al. 2017, section 3.6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limner.nn.bijection import Bijection


def squeeze(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 4C, H/2, W/2): each 2x2 block of pixels becomes four channels (Dinh et al. 2017, figure 3).

    Channels are ordered by place in the block first: upper left, upper right, lower left, lower right; then by C.
    """
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, 4 * c, h // 2, w // 2)


def unsqueeze(x: Tensor) -> Tensor:
    """(B, 4C, H, W) -> (B, C, 2H, 2W), the inverse of `squeeze`."""
    b, c, h, w = x.shape
    x = x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // 4, 2 * h, 2 * w)


class Squeeze(Bijection):
    """`squeeze` as a layer. A permutation: log |det| = 0."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return squeeze(x), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        return unsqueeze(y)


def pad_to_even(x: Tensor) -> Tensor:
    """(B, C, H, W) with a row and a column of zeros added where H and W are odd."""
    return F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
