"""Peak signal-to-noise ratio: 10 log10(peak^2 / mean squared error), in dB, of 8-bit images.

The error is averaged over all images before the logarithm (so that the figure follows from the mean squared error, and a single
perfect image does not make it infinite). As in `skimage.metrics.peak_signal_noise_ratio` of the whole stack with data_range 255.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
    errors = squared_errors(original, copy)
    mean = float(errors.mean())
    if mean == 0 or len(errors) < 2:
        return 0.0
    return 10 / math.log(10) * float(errors.std()) / math.sqrt(len(errors)) / mean


def decibels(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error in grey levels squared."""
    return math.inf if mean_squared_error == 0 else 10 * math.log10(PEAK**2 / mean_squared_error)
