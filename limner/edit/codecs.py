"""What PNG and WebP make of a set of images: bytes, and what of the images is left.

Small images are unfair to file formats, each file of which has a header: a set is also written as sheets, all images side by side.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from limner.metrics.psnr import psnr

SHEET = 4096
"""Pixels of a sheet's side at most; more images than it holds go onto further sheets."""


class Coded(NamedTuple):
    """A set of images in some format."""

    bytes: int
    psnr: float
    """dB, of all pixels together; infinite where nothing is lost."""
    quality: int | None = None
    """That it was written with, of a lossy format."""


def sheets(images: np.ndarray) -> list[np.ndarray]:
    """uint8 (N, H, W, C) side by side, without gaps, on few pictures (1, h, w, C); places left over are black."""
    n, height, width, channels = images.shape
    most = max(1, SHEET // width) * max(1, SHEET // height)
    made = []
    for i in range(0, n, most):
        part = images[i : i + most]
        columns = min(max(1, SHEET // width), math.ceil(math.sqrt(len(part))))
        rows = math.ceil(len(part) / columns)
        full = np.zeros((rows * columns, height, width, channels), np.uint8)
        full[: len(part)] = part
        sheet = full.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
        made.append(sheet.reshape(1, rows * height, columns * width, channels))
    return made


def unsheet(sheet: np.ndarray, n: int, height: int, width: int) -> np.ndarray:
    """The first n images (n, H, W, C) of a sheet (1, h, w, C)."""
    rows, columns = sheet.shape[1] // height, sheet.shape[2] // width
    parts = sheet.reshape(rows, height, columns, width, -1).transpose(0, 2, 1, 3, 4)
    return parts.reshape(rows * columns, height, width, -1)[:n]


def encode(image: np.ndarray, format: str, **options: Any) -> bytes:
    """One image (H, W, C) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format=format, **options)
    return buffer.getvalue()


def decode(data: bytes, channels: int) -> np.ndarray:
    """The image (H, W, C) of a file."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def png(images: np.ndarray, *, together: bool = False) -> Coded:
    """Optimised PNG."""
    return _lossless(images, together, "PNG", optimize=True)


def webp_lossless(images: np.ndarray, *, together: bool = False) -> Coded:
    """Lossless WebP, at its slowest and smallest."""
    return _lossless(images, together, "WEBP", lossless=True, quality=100, method=6)


def webp_at(images: np.ndarray, decibels: float, *, together: bool = False) -> Coded:
    """Lossy WebP of the lowest quality whose PSNR over all images is at least `decibels`."""
    tried: dict[int, Coded] = {}

    def at(quality: int) -> Coded:
        if quality not in tried:
            size, copies = 0, []
            for part in _files(images, together):
                files = [encode(image, "WEBP", quality=quality, method=6) for image in part]
                size += sum(map(len, files))
                copies.append(np.stack([decode(file, images.shape[3]) for file in files]))
            found = psnr(torch.from_numpy(images), torch.from_numpy(_apart(copies, images, together)))
            tried[quality] = Coded(size, found, quality)
        return tried[quality]

    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle).psnr >= decibels else (middle + 1, high)
    return at(low)


def _lossless(images: np.ndarray, together: bool, format: str, **options: Any) -> Coded:
    size = sum(len(encode(image, format, **options)) for part in _files(images, together) for image in part)
    return Coded(size, math.inf)


def _files(images: np.ndarray, together: bool) -> list[np.ndarray]:
    return sheets(images) if together else [images]


def _apart(copies: list[np.ndarray], images: np.ndarray, together: bool) -> np.ndarray:
    if not together:
        return copies[0]
    n, height, width, _ = images.shape
    parts, left = [], n
    for sheet in copies:
        parts.append(unsheet(sheet, left, height, width))
        left -= len(parts[-1])
    return np.concatenate(parts)


FORMATS: dict[str, Callable[..., Coded]] = {"PNG": png, "WebP lossless": webp_lossless}
