"""Known damage to 8-bit images: what one measures a metric on before one believes it.

A metric of image quality must put held-out images before lightly blurred ones, those before heavily blurred ones, and noise last.
All functions take and give uint8 (N, H, W, C).
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of deviation `sigma` pixels, cut off at four deviations; borders are reflected.

    Raises:
        ValueError: `sigma` is not positive, or four deviations reach beyond an image's side.
    """
    radius = math.ceil(4 * sigma)
    if sigma <= 0 or radius >= min(images.shape[1:3]):
        raise ValueError(f"a blur of {sigma} pixels does not fit images of {images.shape[1]}x{images.shape[2]}")
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    window = torch.exp(-0.5 * (offset / sigma).square())
    window = window / window.sum()
    x = images.permute(0, 3, 1, 2).float()
    x = F.pad(x.flatten(0, 1)[:, None], (radius,) * 4, mode="reflect")  # (N C, 1, H + 2r, W + 2r)
    x = F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return _bytes(x.view(len(images), images.shape[3], *images.shape[1:3]).permute(0, 2, 3, 1))


def noise(images: Tensor, deviation: float, *, seed: int = 0) -> Tensor:
    """White Gaussian noise of `deviation` grey levels added, then cut to 0 ... 255."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    return _bytes(images.float() + deviation * drawn)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Through a JPEG file of this quality (1 to 95) and back."""
    out = np.empty(images.shape, np.uint8)
    for i, image in enumerate(images.cpu().numpy()):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
        out[i] = np.asarray(Image.open(file)).reshape(image.shape)
    return torch.from_numpy(out).to(images.device)


def _bytes(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8).contiguous()
