"""Convolutional encoder and decoder between an image and one vector, shared by the autoencoders.

The sides of the feature maps (`pyramid`) and their channels are shared with the DCGAN networks too.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import UserError

LARGEST_BOTTOM = 7
MAX_CHANNELS = 1024


def pyramid(size: int) -> list[int]:
    """Sides of the feature maps from the image to the smallest, each half of the one before: 28 -> [28, 14, 7].

    Halves at least once, and on to a side of 4 to 7 or to the second halving: 64 -> [64 ... 4], 8 -> [8, 4, 2].

    Raises:
        UserError: the size cannot be halved that far; the nearest sizes that can are named.
    """
    sides = _halvings(size)
    if not _deep_enough(sides):
        works = [s for s in range(4, 2 * size + 8) if _deep_enough(_halvings(s))]
        nearest = [s for s in works if s < size][-1:] + [s for s in works if s > size][:1]
        raise UserError(
            f"images of {size} x {size} pixels cannot be halved down to {LARGEST_BOTTOM} pixels or fewer, as these "
            f"convolutional networks do: use size {' or '.join(map(str, nearest))}"
        )
    return sides


def _halvings(size: int) -> list[int]:
    sides = [size]
    while sides[-1] % 2 == 0 and sides[-1] > 2 and (sides[-1] > LARGEST_BOTTOM or len(sides) < 3):
        sides.append(sides[-1] // 2)
    return sides


def _deep_enough(sides: list[int]) -> bool:
    return len(sides) > 1 and sides[-1] <= LARGEST_BOTTOM


def level_channels(sides: list[int], width: int) -> list[int]:
    """Channels of the feature map of each side below the image: `width`, doubled at each halving, at most 1024."""
    return [min(width * 2**i, max(width, MAX_CHANNELS)) for i in range(len(sides) - 1)]


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), the second convolution zero at first so that training starts from the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class ConvEncoder(nn.Sequential):
    """(B, channels, size, size) -> (B, outputs). Strided convolutions, `blocks` residual blocks at each side, two linear layers."""

    def __init__(self, channels: int, size: int, width: int, outputs: int, *, blocks: int = 1, hidden: int = 256):
        sides = pyramid(size)
        widths = level_channels(sides, width)
        layers: list[nn.Module] = []
        for before, after in pairwise([channels, *widths]):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), *(ResidualBlock(after) for _ in range(blocks))]
            layers += [nn.SiLU()]
        layers += [nn.Flatten(), nn.Linear(widths[-1] * sides[-1] ** 2, hidden), nn.SiLU(), nn.Linear(hidden, outputs)]
        super().__init__(*layers)


class ConvDecoder(nn.Sequential):
    """(B, inputs) -> (B, channels, size, size): the encoder upside down, with a 3x3 convolution on the full-size map at the end."""

    def __init__(self, inputs: int, channels: int, size: int, width: int, *, blocks: int = 1, hidden: int = 256):
        sides = pyramid(size)
        widths = level_channels(sides, width)
        bottom = (widths[-1], sides[-1], sides[-1])
        layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.SiLU()]
        layers += [nn.Linear(hidden, widths[-1] * sides[-1] ** 2), nn.Unflatten(1, bottom)]
        for before, after in pairwise([*widths[::-1], width]):
            layers += [*(ResidualBlock(before) for _ in range(blocks)), nn.SiLU()]
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        layers += [nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)]
        super().__init__(*layers)
