"""Dequantisation: from images of `levels` grey values to densities on the unit cube and back, and the bits per dimension.

Let k in {0 .. L-1}^D be an image. A density p on [0, 1]^D assigns to it the probability

    P(k) = integral over u in [0, 1]^D of p((k + u) / L) du / L^D,

and with u uniform, Jensen's inequality gives (Theis et al. 2016, section 3.1; Uria et al. 2013)

    log P(k) >= E_u [ log p((k + u) / L) ] - D log L.

So -log2 p((k + u) / L) / D + log2 L, for one draw of u, is an unbiased estimate of an upper bound of the model's bits per
dimension. This is the "bits/dim" that papers on flows report.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def level_of(image: Tensor, levels: int) -> Tensor:
    """The grey value k = 0 .. levels - 1 of images in [-1, 1], as floats: inverts x = 2k / (levels - 1) - 1."""
    return ((image + 1) * (0.5 * (levels - 1))).round().clamp(0, levels - 1)


def dequantise(image: Tensor, levels: int, u: Tensor | float) -> Tensor:
    """(k + u) / levels in [0, 1) for images in [-1, 1] and u in [0, 1); u = 0.5 is the centre of the bin."""
    return (level_of(image, levels) + u) / levels


def uniform_dequantise(image: Tensor, levels: int) -> Tensor:
    """`dequantise` with u uniform on [0, 1), drawn from the global generator: for training."""
    return dequantise(image, levels, torch.rand_like(image))


def centre_of(v: Tensor, levels: int) -> Tensor:
    """Images in [-1, 1], not rounded, for v in [0, 1]: the inverse of `dequantise(image, levels, 0.5)`; ends clipped."""
    return ((v * levels - 0.5) * (2 / (levels - 1)) - 1).clamp(-1, 1)


def quantise(v: Tensor, levels: int) -> Tensor:
    """Images in [-1, 1] of exactly `levels` values, k = floor(levels * v): turns draws of p into draws of P."""
    k = (v * levels).floor().clamp(0, levels - 1)
    return 2 * k / (levels - 1) - 1


def bits_per_dim(log_density: Tensor, dimensions: int, levels: int) -> Tensor:
    """-log2 p / D + log2 L, from log p (B,) in nats with respect to v in [0, 1]^D."""
    return (math.log(levels) - log_density / dimensions) / math.log(2)
