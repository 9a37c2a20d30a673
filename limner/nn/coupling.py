"""Coupling layers: one part of the variables is transformed by a function whose parameters a network reads off the other part.

    y_a = x_a,   y_b = g(x_b; network(x_a))        (Dinh et al. 2017, eq. 4-8; lecture 000, "Real-NVP")

A coupling is put together from three parts: a *partition* (who is a, who is b), a *transform* (what g is: affine here) and a
*network* of any kind, since it is never inverted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.nn.bijection import Bijection
from limner.nn.squeeze import pad_to_even, squeeze, unsqueeze


class Halves(nn.Module):
    """Channel-wise partition: a is the first half of the channels and b the second; `swap` exchanges the roles.

    Takes the shape (C, H, W) of a feature map, or (D,) of vectors. The first half is the larger if C is odd.
    """

    def __init__(self, shape: Sequence[int], *, swap: bool = False):
        super().__init__()
        first = (shape[0] + 1) // 2
        self.sizes, self.swap = (first, shape[0] - first), swap
        self.given, self.changed = reversed(self.sizes) if swap else self.sizes

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The parts (x_a, x_b)."""
        first, second = x.split(self.sizes, dim=1)
        return (second, first) if self.swap else (first, second)

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """x from its parts."""
        return torch.cat([b, a] if self.swap else [a, b], dim=1)

    def total(self, log_slope: Tensor) -> Tensor:
        """(B,) sum of the elementwise log-derivatives of b."""
        return log_slope.flatten(1).sum(1)


class Checkerboard(nn.Module):
    """Checkerboard partition: a is the pixels (i, j) with i + j even and b those with i + j odd; `swap` exchanges the roles.

    Both parts come packed: a 2x2 block holds two pixels of each colour, which become channels at half the resolution,
    (B, 2C, H/2, W/2). The partition is that of the mask in Dinh et al. 2017 (figure 3, left); the network is spared the
    zeros of the masked image and a 3x3 kernel on the packed lattice sees 6x6 pixels. Odd sizes are padded with zeros, which
    are left out of the log-determinant.
    """

    inside: Tensor

    def __init__(self, shape: Sequence[int], *, swap: bool = False):
        super().__init__()
        channels, self.height, self.width = shape
        self.swap = swap
        self.given = self.changed = 2 * channels
        self.padded = bool(self.height % 2 or self.width % 2)
        if self.padded:
            inside = self._pack(torch.ones(1, *shape))[1]
            self.register_buffer("inside", inside, persistent=False)

    def _pack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        upper_left, upper_right, lower_left, lower_right = squeeze(pad_to_even(x)).chunk(4, dim=1)
        even, odd = torch.cat([upper_left, lower_right], dim=1), torch.cat([upper_right, lower_left], dim=1)
        return (odd, even) if self.swap else (even, odd)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The parts (x_a, x_b), each (B, 2C, ceil(H/2), ceil(W/2))."""
        return self._pack(x)

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """x from its parts."""
        even, odd = (b, a) if self.swap else (a, b)
        (upper_left, lower_right), (upper_right, lower_left) = even.chunk(2, dim=1), odd.chunk(2, dim=1)
        x = unsqueeze(torch.cat([upper_left, upper_right, lower_left, lower_right], dim=1))
        return x[:, :, : self.height, : self.width]

    def total(self, log_slope: Tensor) -> Tensor:
        """(B,) sum of the elementwise log-derivatives of b, over the pixels that are there."""
        return (log_slope * self.inside if self.padded else log_slope).flatten(1).sum(1)


class Affine(nn.Module):
    """g(x; s, t) = x * exp(s) + t (Dinh et al. 2017, eq. 7), with s = clamp * tanh(raw / clamp) so that no layer stretches or
    shrinks by more than exp(clamp)."""

    per_element = 2
    """Numbers the network gives for each element of b."""

    def __init__(self, clamp: float = 2.0):
        super().__init__()
        self.clamp = clamp

    def _read(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = parameters.chunk(2, dim=1)
        return self.clamp * torch.tanh(raw / self.clamp), t

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """g(x) and log g'(x), both of x's shape."""
        s, t = self._read(parameters)
        return x * s.exp() + t, s

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """g^-1(y) = (y - t) * exp(-s), eq. 8."""
        s, t = self._read(parameters)
        return (y - t) * (-s).exp()


class Coupling(Bijection):
    """y_a = x_a, y_b = g(x_b; network(x_a)); log |det| = sum of log g' (Dinh et al. 2017, eq. 6).

    `network` maps a, with `partition.given` channels, to `transform.per_element * partition.changed` channels.
    """

    partition: Any
    transform: Any

    def __init__(self, partition: nn.Module, transform: nn.Module, network: nn.Module):
        super().__init__()
        self.partition, self.transform, self.network = partition, transform, network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.partition.split(x)
        # Under autocast the network gives bfloat16; what becomes part of the density stays as precise as x.
        b, log_slope = self.transform(b, self.network(a).to(x.dtype))
        return self.partition.merge(a, b), self.partition.total(log_slope)

    def inverse(self, y: Tensor) -> Tensor:
        a, b = self.partition.split(y)
        return self.partition.merge(a, self.transform.inverse(b, self.network(a)))


class WeightNormConv2d(nn.Module):
    """A convolution with weight g * v / |v|, one norm for each output channel (Salimans & Kingma 2016, eq. 2). Keeps the size.

    v starts small, as in that paper: Adam's steps have a size of their own, and turn a small v faster. g starts at `gain` times
    what keeps the variance of rectified inputs (He et al. 2015).
    """

    def __init__(self, channels: int, out: int, kernel: int, *, gain: float = 1.0):
        super().__init__()
        self.direction = nn.Parameter(0.05 * torch.randn(out, channels, kernel, kernel))
        # Rows of He's standard deviation sqrt(2 / fan_in) have the norm sqrt(2).
        self.norm = nn.Parameter(torch.full((out, 1, 1, 1), gain * 2**0.5))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        length = self.direction.flatten(1).norm(dim=1).view_as(self.norm)
        weight = self.direction * (self.norm / length)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)


class ResidualBlock(nn.Module):
    """h + conv1x1(relu(conv3x3(relu(h))))."""

    def __init__(self, width: int):
        super().__init__()
        self.first = WeightNormConv2d(width, width, 3)
        self.second = WeightNormConv2d(width, width, 1, gain=0.1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.relu(self.first(F.relu(h))))


class ResNet(nn.Module):
    """The s and t network of a coupling layer: a residual network with weight normalisation (Dinh et al. 2017, section 4.1).

    Starts as the zero function, so that a coupling starts as the identity: the last layer has no weight norm, since a zero norm
    g would learn slowly. It is computed in float32 even under autocast: bfloat16's 8 bits are too few for s and t.
    """

    def __init__(self, channels: int, out: int, width: int, blocks: int):
        super().__init__()
        self.read = WeightNormConv2d(channels, width, 3)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.write = nn.Conv2d(width, out, 1)
        for p in self.write.parameters():
            nn.init.zeros_(p)

    def forward(self, a: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W)."""
        h = F.relu(self.blocks(self.read(a)))
        with torch.autocast(h.device.type, enabled=False):
            return self.write(h.to(self.write.weight.dtype))
