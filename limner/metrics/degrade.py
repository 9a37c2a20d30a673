"""Known damage to 8-bit images: what one measures a metric on before one believes it.

A metric of image quality must put held-out images before lightly blurred ones, those before heavily blurred ones, and noise last.
All functions take and give uint8 (N, H, W, C). The damage is that of `limner.data.degrade`, its strengths in 8-bit terms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from limner.data import degrade
from limner.data.grid import from_uint8, to_uint8
from limner.noise import seeds


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of deviation `sigma` pixels, cut off at four deviations; borders are mirrored.

    Raises:
        ValueError: `sigma` is not positive.
    """
    if sigma <= 0:
        raise ValueError(f"a blur of {sigma} pixels")
    return _each(images, lambda image, _: degrade.blur(image, sigma))


def noise(images: Tensor, deviation: float, *, seed: int = 0) -> Tensor:
    """White Gaussian noise of `deviation` grey levels added, then cut to 0 ... 255."""
    drawn = seeds(seed, len(images))
    return _each(images, lambda image, i: degrade.noise(image, deviation / 127.5, np.random.default_rng(drawn[i])))


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Through a JPEG file of this quality (1 to 95) and back."""
    return _each(images, lambda image, _: degrade.jpeg(image, quality))


def _each(images: Tensor, damage: Callable[[np.ndarray, int], np.ndarray]) -> Tensor:
    floats = from_uint8(images.cpu().numpy()).numpy()  # (N, C, H, W)
    damaged = np.stack([damage(image, i) for i, image in enumerate(floats)])
    return torch.from_numpy(to_uint8(torch.from_numpy(damaged))).to(images.device)
