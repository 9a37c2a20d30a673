"""How an image becomes the 299 x 299 input of the Inception network: three protocols that give three FIDs for one set of images.

| protocol | filter | input of the network | as in |
|---|---|---|---|
| `tf` | bilinear of TensorFlow 1: corners at the origin, no antialiasing | (k - 128) / 128 | the first FID code, torch-fidelity |
| `torch` | bilinear between pixel centres, no antialiasing | 2 (k / 255) - 1 | pytorch-fid |
| `clean` | bicubic (a = -1/2) widened when it shrinks, clipped to [0, 255], not rounded | (k - 128) / 128 | clean-fid |

Parmar et al. 2022, arXiv 2104.11222, sections 3 and 4: without antialiasing a smaller image is a sample of a few of the larger
one's pixels, so that the distance measures aliasing. When images are enlarged the three differ less, but not by nothing: `tf` shifts them
by half a pixel. No figure of one protocol compares with one of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 299
"""Height and width of the network's input."""


def tf_bilinear(images: Tensor, size: int = SIZE) -> Tensor:
    """float32 (N, 3, size, size) in [-1, 127/128] of images (N, H, W, 1 or 3) uint8: pixel j is read at j * H / size.

    Raises:
        ValueError: the images are not uint8 (N, H, W, 1 or 3).
    """
    x = _grey_levels(images)
    for dimension in (3, 2):  # in this order: the rounding of the original
        length = x.shape[dimension]
        position = torch.arange(size, dtype=x.dtype, device=x.device) * (length / size)
        low = position.long()
        fraction = (position - low).unflatten(0, (-1, *[1] * (3 - dimension)))
        below = x.index_select(dimension, low)
        above = x.index_select(dimension, (low + 1).clamp(max=length - 1))
        x = below + (above - below) * fraction
    return (x - 128) / 128


def torch_bilinear(images: Tensor, size: int = SIZE) -> Tensor:
    """float32 (N, 3, size, size) in [-1, 1] of images (N, H, W, 1 or 3) uint8: pixel j is read at (j + 1/2) * H / size - 1/2.

    Raises:
        ValueError: the images are not uint8 (N, H, W, 1 or 3).
    """
    x = _grey_levels(images) / 255
    return 2 * F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False) - 1


def clean_bicubic(images: Tensor, size: int = SIZE) -> Tensor:
    """float32 (N, 3, size, size) in [-1, 127/128] of images (N, H, W, 1 or 3) uint8: Pillow's bicubic filter, unrounded.

    Raises:
        ValueError: the images are not uint8 (N, H, W, 1 or 3).
    """
    # In float32 the filter's positions are rounded too: off by up to 1/100 grey level, in float64 by 2e-5.
    x = _grey_levels(images).double()
    x = F.interpolate(x, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return (x.clamp(0, 255).float() - 128) / 128


class Resize(NamedTuple):
    """One protocol."""

    words: str
    """What it does, for a protocol."""
    apply: Callable[[Tensor, int], Tensor]
    """Input (N, 3, size, size) of the network of images (N, H, W, C) uint8 and a size."""


RESIZES = {
    "tf": Resize(f"tf: TensorFlow 1 bilinear to {SIZE} px", tf_bilinear),
    "torch": Resize(f"torch: bilinear without antialiasing to {SIZE} px", torch_bilinear),
    "clean": Resize(f"clean: antialiased bicubic to {SIZE} px", clean_bicubic),
}


def _grey_levels(images: Tensor) -> Tensor:
    """float32 (N, 3, H, W) in [0, 255]; a grey image becomes three equal channels."""
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 (N, H, W, C) of 1 or 3 channels, not {images.dtype} {tuple(images.shape)}"
        )
    return images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float()
