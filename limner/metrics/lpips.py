"""LPIPS of pairs of images: a distance fitted to what people judge alike, the mean over the pairs and its standard error.

Zhang et al. 2018, arXiv 1801.03924. What is computed, and where its weights come from, is said in `limner.losses.perceptual`.

Range: 0, for equal images, upwards; rarely above 1. VGG's and AlexNet's values do not compare. What it misses: it was fitted to
patches of 64 x 64 pixels; images are compared at their own size, and below 64 px they are less than it was made for: state the size.
Shifts of a pixel or two cost little, and so may small text and faces that are wrong to a person. It knows pairs, not distributions.

Rounding is that of float32: some 1e-6 between batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from limner.losses.perceptual import Perceptual, loaded
from limner.metrics.accumulate import Mean
from limner.metrics.kid import Estimate
from limner.metrics.networks import checked

VALUES_AT_ONCE = 1 << 19
"""Pixel values of one side of the pairs compared at once: bounds the memory (VGG's activations are 45 times as many)."""


def lpips(
    a: Tensor, b: Tensor, net: str = "vgg", *, model: Perceptual | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """(N,) float64, the LPIPS of each pair of images a, b (N, H, W, C) uint8; grey ones are repeated into three channels.

    Args:
        net: "vgg" or "alex".
        model: the distance, if not that of `load(net)`.
        device: where to compute.

    Raises:
        ValueError: the shapes differ, the images are not uint8 of one or three channels, or are too small for the network.
        UserError: the weights are not to be found.
    """
    if a.shape != b.shape:
        raise ValueError(f"images of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    model = (loaded(net) if model is None else model).to(device)
    parts = max(1, VALUES_AT_ONCE // max(1, 3 * checked(a)[:1, ..., 0].numel()))
    pairs = zip(checked(a).split(parts), checked(b).split(parts), strict=True)
    with torch.no_grad():
        found = [model(_floats(x, device), _floats(y, device)).cpu().double() for x, y in pairs]
    return torch.cat(found)


@dataclass
class LPIPS:
    """LPIPS of pairs of images that come in batches: their mean and its standard error. Split and order of the batches, and
    merging, change it by float32's rounding only."""

    net: str = "vgg"
    model: Perceptual | None = None
    device: torch.device | str = "cpu"
    _values: Mean = field(default_factory=Mean)

    def update(self, a: Tensor, b: Tensor) -> None:
        """Take in pairs of images (n, H, W, C) uint8."""
        self._values.update(lpips(a, b, self.net, model=self.model, device=self.device))

    def merge(self, other: LPIPS) -> None:
        """Take in the pairs that another accumulator has seen.

        Raises:
            ValueError: it uses another network.
        """
        if self.net != other.net:
            raise ValueError(f"LPIPS of '{self.net}' cannot be averaged with that of '{other.net}'")
        self._values.merge(other._values)

    def compute(self) -> Estimate:
        """Mean and standard error over all pairs."""
        return Estimate(self._values.mean, self._values.error)


def _floats(images: Tensor, device: torch.device | str) -> Tensor:
    """float32 (N, 3, H, W) in [-1, 1] of images (N, H, W, C) uint8."""
    return images.to(device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 127.5 - 1
