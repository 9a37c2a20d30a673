"""Invertible layers of normalizing flows: what they share, and how they are chained into a multi-scale flow.

A bijection is a module with two methods::

    forward(x) -> (y, log_det)     y = f(x), log_det (B,) = log |det df/dx|, natural logarithm
    inverse(y) -> x                f^-1(y)

so that log p_x(x) = log p_y(f(x)) + log |det df/dx| (lecture 000, change of variables; Dinh et al. 2017, eq. 2-3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Bijection(nn.Module):
    """Base of the invertible layers. Subclasses write `forward` and `inverse`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = f(x) and log |det df/dx| (B,)."""
        raise TypeError(f"{type(self).__name__} must define forward()")

    def inverse(self, y: Tensor) -> Tensor:
        """x = f^-1(y)."""
        raise TypeError(f"{type(self).__name__} must define inverse()")


class Chain(Bijection):
    """f_n o ... o f_1: log-determinants add up (Dinh et al. 2017, eq. 11-12 in the other direction)."""

    layers: Any  # a list of Bijection

    def __init__(self, layers: Iterable[Bijection]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for layer in self.layers:
            x, change = layer(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            y = layer.inverse(y)
        return y


class Logit(Bijection):
    """y = logit(alpha + (1 - 2 alpha) x), elementwise, from [0, 1] to the real line (Dinh et al. 2017, section 4.1).

    The paper writes alpha + (1 - alpha) x, with x in [0, 1); squeezing both ends keeps the image symmetric and finite at
    x = 1. `inverse` goes back to values that may leave [0, 1] by alpha / (1 - 2 alpha) at most.
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x
        # d logit(p) / dp = 1 / (p (1 - p))
        log_p, log_q = p.log(), (1 - p).log()
        slope = math.log(1 - 2 * self.alpha) - log_p - log_q
        return log_p - log_q, slope.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)


class MultiScale(Bijection):
    """The multi-scale architecture of Dinh et al. 2017, section 3.6, eq. 13-16: after each scale but the last, half of the
    channels leave for the latent and the other half goes on.

        h(0) = x;   (z(i+1), h(i+1)) = f(i+1)(h(i));   z(L) = f(L)(h(L-1));   z = (z(1), ..., z(L))

    The first half of the channels goes on. Maps (B, C, H, W) to a flat latent (B, D), D = C H W.

    Args:
        scales: the f(i), each a bijection of feature maps.
        shapes: the (C, H, W) that each f(i) puts out, before the split.
    """

    scales: Any  # a list of Bijection

    def __init__(self, scales: Sequence[Bijection], shapes: Sequence[tuple[int, int, int]]):
        super().__init__()
        self.scales = nn.ModuleList(scales)
        self.shapes = list(shapes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det, parts, last = x.new_zeros(len(x)), [], len(self.scales) - 1
        for i, scale in enumerate(self.scales):
            x, change = scale(x)
            log_det = log_det + change
            if i < last:
                x, z = x.chunk(2, dim=1)
                parts.append(z.flatten(1))
        return torch.cat([*parts, x.flatten(1)], dim=1), log_det

    def inverse(self, y: Tensor) -> Tensor:
        last = len(self.scales) - 1
        sizes = [math.prod(s) // (2 if i < last else 1) for i, s in enumerate(self.shapes)]
        *parts, x = y.split(sizes, dim=1)
        x = self.scales[last].inverse(x.view(-1, *self.shapes[last]))
        for scale, (c, h, w), z in reversed(list(zip(self.scales, self.shapes, parts, strict=False))):
            x = scale.inverse(torch.cat([x, z.view(-1, c // 2, h, w)], dim=1))
        return x


def standard_normal_log_density(z: Tensor) -> Tensor:
    """(B,) log N(z; 0, I) of each row of z (B, D), in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
