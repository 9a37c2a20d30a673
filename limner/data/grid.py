"""Pictures of batches: conversion between [-1, 1] and 8 bit, and a grid that a person can see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner.files import make_folder, replacing

GAP = 2
"""Pixels between the images of a grid."""


def to_uint8(images: Tensor) -> np.ndarray:
    """float (N, C, H, W) in [-1, 1] to uint8 (N, H, W, C), rounded to the nearest; what lies outside is clipped."""
    levels = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return levels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_uint8(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [-1, 1]: value k becomes 2k/255 - 1."""
    pixels = torch.from_numpy(np.require(images, requirements=("C", "W"))).permute(0, 3, 1, 2)
    return _GRID_256[pixels.long()].contiguous()


_GRID_256 = (2 * torch.arange(256, dtype=torch.float64) / 255 - 1).float()


def grid(images: np.ndarray, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """uint8 (N, H, W, C) as one picture, row by row on a neutral ground.

    Args:
        columns: images in a row; about the square root of N if not given.
        scale: each pixel becomes a square of so many; if not given, what brings an image to about 64 pixels.
    """
    n, height, width, channels = images.shape
    columns = columns or max(1, math.ceil(math.sqrt(n)))
    scale = scale or max(1, round(64 / max(height, width)))
    rows = math.ceil(n / columns)
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    sheet = np.full((rows * cell_h + GAP, columns * cell_w + GAP, channels), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * cell_h, GAP + i % columns * cell_w
        sheet[top : top + height * scale, left : left + width * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def save_image(pixels: np.ndarray, path: str | Path) -> None:
    """Write uint8 (H, W, C) to `path` as PNG, into a folder that is made if it is not there.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    make_folder(Path(path).parent)
    with replacing(path) as temporary:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(temporary, format="PNG")


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, scale: int | None = None) -> None:
    """Write float images (N, C, H, W) in [-1, 1] to `path` as one PNG; see `grid` for `columns` and `scale`.

    Raises:
        UserError: the file cannot be written.
    """
    picture = grid(to_uint8(images), columns, scale)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
