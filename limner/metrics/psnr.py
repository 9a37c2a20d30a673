"""Peak signal-to-noise ratio: 10 log10(peak^2 / mean squared error), in dB, of 8-bit images.

The error is averaged over all images before the logarithm (so that the figure follows from the mean squared error, and a single
perfect image does not make it infinite). As in `skimage.metrics.peak_signal_noise_ratio` of the whole stack with data_range 255.
Borders are not cropped, and colour channels count as further pixels. Papers on super-resolution that average the decibels of single
images, or crop, or compare luminance alone, print other numbers. Range: 0 to infinity. What it misses: structure; blur costs it little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate, Mean

PEAK = 255


def squared_errors(original: Tensor, copy: Tensor) -> Tensor:
    """(N,) mean squared error of each image; both (N, ...) uint8, in grey levels squared.

    Raises:
        ValueError: shapes differ or the images are not uint8 (another range would silently give a wrong figure).
    """
    if original.shape != copy.shape:
        raise ValueError(f"images of shapes {tuple(original.shape)} and {tuple(copy.shape)} cannot be compared")
    if original.dtype != torch.uint8 or copy.dtype != torch.uint8:
        raise ValueError(f"PSNR is of uint8 images, not {original.dtype} and {copy.dtype}")
    return (original.double() - copy.double()).square().flatten(1).mean(1)


def psnr(original: Tensor, copy: Tensor) -> float:
    """PSNR in dB of the images `copy` against `original`, (N, ...) uint8. Infinite where they are identical."""
    return decibels(float(squared_errors(original, copy).mean()))


def psnr_error(original: Tensor, copy: Tensor) -> float:
    """Standard error in dB of `psnr` over the choice of images, by first-order propagation from the mean squared error."""
    accumulator = PSNR()
    accumulator.update(original, copy)
    return accumulator.compute().error


@dataclass
class PSNR:
    """PSNR of pairs of images that come in batches. Equal to `psnr` of all, to the rounding of float64."""

    _errors: Mean = field(default_factory=Mean)

    def update(self, original: Tensor, copy: Tensor) -> None:
        """Take in pairs of images (n, ...) uint8."""
        self._errors.update(squared_errors(original, copy))

    def merge(self, other: PSNR) -> None:
        """Take in the pairs that another accumulator has seen."""
        self._errors.merge(other._errors)

    def compute(self) -> Estimate:
        """PSNR in dB over all pairs, and its standard error (0 where it is infinite or of one pair)."""
        mean = self._errors.mean
        if mean == 0 or self._errors.count < 2:
            return Estimate(decibels(mean), 0.0)
        return Estimate(decibels(mean), 10 / math.log(10) * self._errors.error / mean)


def decibels(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error in grey levels squared."""
    return math.inf if mean_squared_error == 0 else 10 * math.log10(PEAK**2 / mean_squared_error)
