"""Features of images: what distances between sets of images are measured in.

An extractor takes uint8 images (N, H, W, C) of 256 grey levels and gives float64 features (N, d). Its name and the hash of its
weights are part of every protocol, because a distance means nothing without them. Here: `pixels`; `limner.metrics.classifier` has
the other, a small network trained on the data's own labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Extractor(Protocol):
    """Something that turns images into features."""

    name: str
    """How it is called in a protocol."""
    hash: str
    """Twelve hexadecimal digits of its weights; empty where it has none."""
    resize: str
    """What is done to images of another size than its own, in words."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, d) float64 of images (N, H, W, C) uint8."""
        ...


def describe(extractor: Extractor) -> str:
    """Name, hash and resize of an extractor, for a protocol."""
    name = f"{extractor.name}:{extractor.hash}" if extractor.hash else extractor.name
    return f"{name} ({extractor.resize})"


def to_bytes(image: Tensor, levels: int = 256) -> Tensor:
    """uint8 (N, H, W, C) of float images (N, C, H, W) in [-1, 1], rounded to the nearest of the data's grey levels.

    Level k of L becomes round(255 k / (L - 1)), as a `Dataset` stores it. Every sample measured goes through this: a model is not
    charged for values between the grey levels that its data have.
    """
    k = ((image.detach().float().clamp(-1, 1) + 1) / 2 * (levels - 1)).round()
    return (k * (255 / (levels - 1))).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_floats(images: Tensor, size: int) -> Tensor:
    """float32 (N, C, h, w) in [-1, 1] of uint8 images (N, H, W, C); images larger than `size` are reduced to it by area averaging."""
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    if max(x.shape[-2:]) > size:
        x = F.interpolate(x, size=(size, size), mode="area")
    return x


class Pixels:
    """The pixels themselves, in [-1, 1]: needs no labels and no weights, and sees blur and noise, but not what is depicted."""

    name = "pixels"
    hash = ""
    size = 32
    resize = f"as is up to {size} px, larger by area averaging to {size}"

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, C * h * w) of images (N, H, W, C) uint8."""
        return to_floats(images, self.size).flatten(1).double()


def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, batch: int = 256) -> Tensor:
    """`function` over `images` in batches, concatenated: bounds the memory, not the result."""
    return torch.cat([function(part) for part in images.split(batch)])
